"""How each kind of engine is started: one module a kind, one command line for the yard.

`kinds.choose(wanted, settings)` names the kind, `kinds.launcher(kind, settings)` gives its launcher, and
`launcher.command(order)` what the yard starts:

    command = launcher(kind, settings).command(Order(config, folder=files.folder))
    for path, text in command.files.items(): write_private(path, text)
    Popen(command.argv, …); control = EngineClient(command.control); api = EngineClient(config.uds)

| kind | process | control socket |
|---|---|---|
| `transformers` | `python -m workers.engine CONFIG.json` | the engine's own, `uds` |
| `vllm` | `python -m workers.engine.guard GUARD.json` around vLLM's server | `<uds>.guard` |
| a name in `engine_commands` | `python -m workers.engine.guard GUARD.json` around that command line | `<uds>.guard` |
"""
