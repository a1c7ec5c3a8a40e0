"""What a type checker sees of the public interface: mypy reads this file, and nothing runs it.

An error that mypy must find has a comment that ignores it. If mypy no longer found it, the comment
would be unused, which is itself an error.
"""

import lowerbound as lb


def train(model: lb.Model, data: object) -> lb.Run:
    """The keywords of ``fit`` are the settings of a training run, with their types."""
    lb.fit(model, lb.ELBO(), data, epochs="3")  # type: ignore[arg-type]
    lb.fit(model, lb.ELBO(), data, epoch=3)  # type: ignore[call-arg]
    return lb.fit(model, lb.ELBO(), epochs=3, validation=0.1, progress=False)
