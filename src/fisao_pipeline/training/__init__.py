"""The loop: sample rollouts, reward their tokens, take PPO steps; the stages and the loop call the same functions."""
