"""What a sweep shows and leaves: live view, leaderboard, best model, report, MLflow descriptions, gauges."""
