"""Everything that a sweep shows and writes for people: live view, leaderboard, best model, report, MLflow, gauges.

ranking.py         the order of the trials, the means of repeats, the Pareto front
leaderboard.py     the columns of the leaderboard, defined once; the table and leaderboard.csv
terminal_table.py  the leaderboard in a terminal of any width
results.py         the best config and model, and the printout at the end of a sweep
view.py            the live view; watch.py: the live view of a sweep that another process runs
gauges.py          gauges for Prometheus, exported by Ray
reporting.py       the report's data, collected from the study
descriptions.py    the descriptions of the sweep, its dataset and its best model in MLflow
"""
