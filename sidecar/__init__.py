"""A service-mesh sidecar on Twisted: every capability a plugin, one immutable model, four bands of code.

Start reading at `sidecar.interfaces` (every promise between the parts) and `sidecar.assembly` (who is introduced to whom).
"""

__version__ = "0.1.0"
