"""Training checkpoints that are whole or not there, and the state that a run goes on from."""
