"""The report of a sweep: one HTML file that needs no network, drawn from plain facts.

`facts` says what a report is made of; whoever keeps the books fills it (`jepa_ray.sweep.output.reporting`). `panels`,
`importance`, `timeline` and `plots` turn facts into what the page shows, `page` writes it, `versus` sets two sweeps
side by side. What the reader's browser runs is in `templates/`. Nothing here reads a database or knows of Ray.
"""
