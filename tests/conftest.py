"""Puts this folder on the import path, so that test files share `nets` and `brute_force`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
