"""Words on a terminal. Commands import the other rooms inside themselves, so that `--help` loads neither torch nor
fastapi; nothing here computes."""
