"""Draws generations with vLLM, in this process or from a server, and probes that it follows the trained policy."""
