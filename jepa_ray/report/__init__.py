"""The report of a sweep: one HTML file that needs no network, rendered from plain values.

`report_data.py` defines the values, and `jepa_ray.sweep.output.reporting` reads them from the study. `summary.py`,
`panels.py`, `importance.py`, `timeline.py`, `plots.py` and `space_plots.py` compute the contents of the page,
`page.py` renders it, and `side_by_side.py` compares two sweeps. `templates/` holds the HTML, CSS and JavaScript.
Nothing in this package reads a database or imports Ray.
"""
