"""A small process around a server that is not ours: it gives it a lifeline, figures and an end.

    worker ── lifeline ──▶ guard ── leash (a pipe) ──▶ warden ──▶ server ──▶ its own children

The *guard* (`process`, `control`) speaks the engine's control protocol. The *warden* is a fork of it in a session of
its own; it starts the server, and ends everything that came of it as soon as the leash breaks: so neither `kill -9` of
the guard nor of its whole group leaves a process behind. vLLM's own children do not notice the death of their parent.
"""
