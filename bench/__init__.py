"""What a request through the sidecar costs, beside other proxies, measured in one run on this machine: `make bench`.

docs/benchmark.md says how to read it. `run` walks the rounds; `peers` knows how each proxy is configured and started; `load` knows the two load generators;
`processes` starts, pins, counts and ends; `results` is arithmetic and the table.
"""
