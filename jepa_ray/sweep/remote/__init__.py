"""A sweep as a Ray job on a cluster: its submission, the dashboard API, and the bundle that is uploaded."""
