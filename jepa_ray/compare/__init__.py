"""Comparison of JEPA with the generative baseline, on the same data, with the same seeds and training time.

    config --> run --spawns--> measure (one process per run) --> result --> table, picture

`run` orders the runs, and owns the folder and the processes; `measure` trains and measures one run; `table` derives a
table and sentences from the measurements; `picture` draws the curves. No Ray and no MLflow.
"""
