"""What several test modules share: small data, stand-ins, processes and browsers."""
