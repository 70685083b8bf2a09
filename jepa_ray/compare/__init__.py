"""JEPA against the generative baseline: same data, seeds and seconds of training, and what came of them.

    config --> run --spawns--> measure (one process a run) --> result --> table, picture

`run` decides the order, owns the folder and the processes; `measure` trains and measures one run; `table` turns figures
into a table and sentences that follow from them; `picture` draws the curves. No Ray and no MLflow.
"""
