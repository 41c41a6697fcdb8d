"""What to do about an error, in the words of the command line."""

#: error code → what to do about it, where the message alone does not say
FIXES = {
    "invalid_api_key": "Give a key: --api-key, MODELYARD_API_KEY, or --data with the folder of the yard.",
    "missing_scope": "`modelyard keys create` makes a key with other scopes.",
    "model_not_found": "`modelyard models list` shows the models there are.",
    "model_in_use": "Cancel its jobs, move its aliases with `modelyard models alias`, delete its adapters first.",
    "source_not_allowed": "Upload it with `modelyard models register`, or have the setting changed.",
    "body_too_large": "Upload the lines with `modelyard files upload`, and submit with --input-file.",
    "idempotency_mismatch": "Leave --idempotency-key out, or give another one.",
    "unknown_host": "Call it by a name in MODELYARD_ALLOWED_HOSTS.",
    "already_finished": "`modelyard jobs retry` runs it again as a new job.",
    "gate_not_met": "Nothing was registered. Try another scheme, more samples, --ignore for layers, or a wider --gate.",
    "group_size_does_not_divide": "Give a --group-size that divides the columns of those layers, or --ignore them.",
    "pattern_matches_nothing": "A pattern is a module's name, its end after a dot, or re: and an expression.",
    "invalid_data": 'A line is {"text": …}, {"messages": […]} or {"prompt": …, "completion": …}.',
    "not_enough_data": "Give more data, or leave out less of it; calibrate with fewer --samples or shorter ones.",
    "too_long": "Give a larger --max-length, or --too-long truncate or drop.",
    "loss_not_finite": "Give a lower --learning-rate; the last good checkpoint is kept.",
    "not_finished": "Wait with `modelyard jobs wait`, or stop it with `modelyard jobs cancel`.",
}
