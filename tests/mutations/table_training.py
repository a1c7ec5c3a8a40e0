"""Mutations of training: gradients, updates, averages, learning rates, and the best weights."""

from __future__ import annotations

from mutation import Mutation

OPTIM, STEP = "training/optim.py", "training/step.py"
UPDATE, AUTOSTOP = "training/update.py", "training/autostop.py"
LOOP, PROGRESS = "training/loop.py", "training/progress.py"
QUICK, RATES = "training/quick_step.py", "training/rates.py"

MUTATIONS = [
    Mutation(
        OPTIM,
        '"cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress))',
        '"cosine": lambda progress: math.cos(0.5 * math.pi * progress)',
        "The cosine schedule is a quarter of a wave.",
    ),
    Mutation(
        OPTIM,
        "0.01**progress",
        "0.1**progress",
        "The exponential schedule ends at a tenth.",
    ),
    Mutation(
        OPTIM,
        "warmup = (step + 1) / warmup_steps",
        "warmup = step / warmup_steps",
        "The first step of a warm-up has the learning rate 0.",
    ),
    Mutation(
        OPTIM,
        "1 / (count + 1)\n",
        "1 / (count + 2)\n",
        "An equal average gives the latest weights too little.",
    ),
    Mutation(
        OPTIM,
        "    share = 1 / (count + 1)\n",
        "    share = 0.001\n",
        "An equal average is an exponential one.",
    ),
    Mutation(
        OPTIM,
        "    if averages[0].is_floating_point() or averages[0].is_complex():\n",
        "    if averages[0].is_floating_point() or decay is not None:\n",
        "Whole numbers are averaged.",
    ),
    Mutation(
        OPTIM,
        "        if averaged.n_averaged == 0:\n",
        "        if False:\n",
        "An average that starts again keeps its earlier value.",
    ),
    Mutation(
        OPTIM,
        "    averaged.n_averaged += 1\n",
        "    averaged.n_averaged += 2\n",
        "The number of averaged weights is twice as large.",
    ),
    Mutation(
        STEP,
        "-self.current.surrogate(draw).mean()",
        "-self.current.surrogate(draw).sum()",
        "The gradient grows with the batch.",
    ),
    Mutation(
        STEP,
        "-self.current.surrogate(draw)",
        "-self.current.bound(draw)",
        "The gradient is that of the bound instead of the surrogate.",
    ),
    Mutation(
        STEP,
        "self.current = objective.holding(self.scheduled)",
        "self.current = objective",
        "Schedules do not reach the objective.",
    ),
    Mutation(
        STEP,
        "(largest / (norm + 1e-6)).clamp(max=1.0)",
        "(largest / (norm + 1e-6))",
        "Small gradients are scaled up to the largest norm.",
    ),
    Mutation(
        STEP,
        "            for buffer, before in zip(self.buffers, self.buffers_before, strict=True):\n"
        "                buffer.copy_(torch.where(self.update.refused, before, buffer))\n",
        "",
        "A refused step changes running statistics.",
    ),
    Mutation(
        STEP,
        "torch.where(self.update.refused, torch.zeros_like(added), added)",
        "added",
        "The terms of a refused step are counted.",
    ),
    Mutation(
        STEP,
        "terms[name].detach().sum(dtype=torch.float64)",
        "terms[name].detach().mean(dtype=torch.float64)",
        "The terms of an epoch are means of batches instead of examples.",
    ),
    Mutation(
        STEP,
        "torch.linalg.vector_norm(torch.stack(norms))",
        "torch.stack(norms).sum()",
        "The norm of all gradients is the sum of their norms.",
    ),
    Mutation(
        STEP,
        "                restore_random_state(start.random, self.device)\n"
        "                _copy(self.buffers_before, self.buffers)\n",
        "                _copy(self.buffers_before, self.buffers)\n",
        "A step that was interrupted is repeated with other noise.",
    ),
    Mutation(
        UPDATE,
        "self.refused.logical_or_(~finite)",
        "self.refused.copy_(~finite)",
        "A step after a refused one is taken.",
    ),
    Mutation(
        UPDATE,
        "            finite = finite & value.isfinite()\n",
        "            pass\n",
        "A gradient that is not finite reaches the weights.",
    ),
    Mutation(
        UPDATE,
        "self.accepted.add_(~self.refused)",
        "self.accepted.add_(1)",
        "Refused steps are counted as accepted.",
    ),
    Mutation(
        UPDATE,
        "tensor.copy_(torch.where(refused, old, tensor))",
        "tensor.copy_(torch.where(refused, tensor, old))",
        "A refused change is kept, and an accepted one undone.",
    ),
    Mutation(
        QUICK,
        'beta2=group["betas"][1]',
        'beta2=group["betas"][0]',
        "Adam's second average has the decay of the first.",
    ),
    Mutation(
        QUICK,
        "        torch._foreach_add_(self.steps, 1)\n",
        "",
        "Adam's bias correction stays at the second step.",
    ),
    Mutation(
        QUICK,
        'weight_decay=group["weight_decay"]',
        "weight_decay=0.0",
        "The weight decay is ignored from the second step on.",
    ),
    Mutation(
        RATES,
        "self._multiply(self.schedule(step) * factor)",
        "self._multiply(self.schedule(step))",
        "The automatic stop does not change the learning rate.",
    ),
    Mutation(
        RATES,
        'group["lr"] = own * factor',
        'group["lr"] = self.own[0] * factor',
        "All players have the model's learning rate.",
    ),
    Mutation(
        AUTOSTOP,
        "_CUT, _GROWTH = 0.5, 2",
        "_CUT, _GROWTH = 1.0, 2",
        "The learning rate is not halved.",
    ),
    Mutation(
        AUTOSTOP,
        "_CUT, _GROWTH = 0.5, 2\n_IDLE",
        "_CUT, _GROWTH = 0.5, 1\n_IDLE",
        "The windows do not grow.",
    ),
    Mutation(
        AUTOSTOP,
        "_IDLE_WINDOWS = 3",
        "_IDLE_WINDOWS = 1",
        "Training ends after the first window that does not gain.",
    ),
    Mutation(
        AUTOSTOP,
        "is_best = gain > 0",
        "is_best = True",
        "The last average is kept instead of the best one.",
    ),
    Mutation(
        AUTOSTOP,
        'record["gain"] > max(self.tolerance, record["gain_error"])',
        'record["gain"] > self.tolerance',
        "A gain within its error counts as a gain.",
    ),
    Mutation(
        AUTOSTOP,
        "float(difference.std() / math.sqrt(len(difference)))",
        "float(difference.std())",
        "The error of a gain is not divided by the root of the number of examples.",
    ),
    Mutation(
        AUTOSTOP,
        "difference = bounds - self._best_bounds",
        "difference = self._best_bounds - bounds",
        "A gain has the wrong sign.",
    ),
    Mutation(
        AUTOSTOP,
        "goes_back=has_best and not gained and not settled",
        "goes_back=False",
        "Training continues from the last weights instead of the best average.",
    ),
    Mutation(
        AUTOSTOP,
        "            settled=settled,\n            restarts_average=True,\n",
        "            settled=settled,\n            restarts_average=False,\n",
        "The average of a window contains the windows before.",
    ),
    Mutation(
        AUTOSTOP,
        "            self._best_bounds = decision.bounds\n",
        "            if self._best_bounds is None:\n"
        "                self._best_bounds = decision.bounds\n",
        "A gain is measured against the first average instead of the best one.",
    ),
    Mutation(
        AUTOSTOP,
        "        model.load_state_dict(weights)\n        try:\n",
        "        try:\n",
        "A resumed training compares an average with itself.",
    ),
    Mutation(
        LOOP,
        "terms = compute_dataset_terms(self.kept, self.objective, data, seed=self.seed)",
        "terms = compute_dataset_terms(self.model, self.objective, data, seed=self.seed)",
        "The last weights are validated instead of their average.",
    ),
    Mutation(
        LOOP,
        "self.best_weights = copy_weights(collect_weights(self.kept, self.players))",
        "self.best_weights = collect_weights(self.kept, self.players)",
        "The best weights change with the training.",
    ),
    Mutation(
        LOOP,
        "                self.load_weights(self.best_weights)\n",
        "                pass\n",
        "Training does not go back to the best average.",
    ),
    Mutation(
        LOOP,
        "        self.restore_best()\n        self.gain",
        "        self.gain",
        "The last weights are returned instead of the best ones.",
    ),
    Mutation(
        LOOP,
        "waited >= self.patience",
        "waited > self.patience",
        "Training waits for one epoch too many.",
    ),
    Mutation(
        PROGRESS,
        "bound > self.best_bound",
        "bound < self.best_bound",
        "The worst validation bound counts as the best.",
    ),
    Mutation(
        "training/players.py",
        'group["lr"] = player.learning_rate',
        'group["lr"] = rate',
        "A player's own learning rate is ignored.",
    ),
]
