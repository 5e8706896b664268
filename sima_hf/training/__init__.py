"""Training: the paper's recipe for Trainer and Accelerate, distillation, metrics, checkpoints that lose nothing."""
