"""Does the sidecar keep its promises while what is behind it dies, hangs, resets, refuses and lies?

Real applications (Python, Node, Go, nginx) behind a sidecar, a steady load of GET and POST through it, and one trouble after the other. What is promised is
checked: no GET fails while one application is healthy, no POST reaches an application twice, who comes back is used again in the configured time, and in
calm the load is shared by weight. `make chaos`, or `python -m bench.chaos --help`.
"""
