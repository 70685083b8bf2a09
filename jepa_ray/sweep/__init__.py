"""The sweep: what decides (space, search, scheduler), what executes (trial), what shows (view, results).

`run` builds them from a spec and runs Ray Tune over warm worker groups.
"""
