"""Acme's plugins for its sidecars: `api_key` (who is calling?) and `redact` (card numbers kept out of answers)."""
