"""A training with torch that never ends, as another program on the same processor."""

import torch
from contenders.lowerbound_ import make
from plain import plain_step
from tasks import LEARNING_RATE, TASKS

model, _ = make(TASKS["mnist"])
optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
x = (torch.rand(100, 784) < 0.2).float()
while True:
    plain_step(model, optimizer, x)
