"""What the optimizers are compared with: slow, obvious, written from the equations, in float64."""

import math

import torch
from torch import Tensor

Moments = dict[str, list[float] | list[list[float]]]


def sgd_on_fp32_copy(
    weight: Tensor, gradient: Tensor, lr: float, weight_decay: float = 0.0
) -> Tensor:
    """The paper's 16-bit update: copy to fp32, one SGD step there, round back once.

    Without weight decay, lr times the gradient is rounded to fp32 before it is subtracted; with it,
    add_ is what torch.optim.SGD uses, and that fuses product and sum where the processor can.
    """
    copy, step = weight.float(), gradient.float()
    if weight_decay:
        copy.add_(step.add_(copy, alpha=weight_decay), alpha=-lr)
    else:
        copy -= lr * step
    return copy.to(weight.dtype)


class AdaLomoReference:
    """AdaLomo for one matrix or vector as arXiv 2310.10195 states it, in Python floats.

    Sums, not means, of g^2 + eps[0] over rows and columns; v_ij = r_i c_j / sum(r);
    u = g / sqrt(v); u_hat = u / max(1, RMS(u) / threshold) max(eps[1], RMS(theta)).
    """

    def __init__(
        self,
        weight: Tensor,
        lr: float,
        eps: tuple[float, float] = (1e-30, 1e-3),
        threshold: float = 1.0,
        weight_decay: float = 0.0,
        beta: float | None = None,
    ) -> None:
        self.lr, self.eps, self.threshold, self.weight_decay = lr, eps, threshold, weight_decay
        self.beta = beta
        self.shape = weight.shape
        self.theta: list[list[float]] = _rows(weight)
        self.num_rows, self.num_columns = len(self.theta), len(self.theta[0])
        self.row = [0.0] * self.num_rows
        self.column = [0.0] * self.num_columns
        self.square = [0.0] * self.num_columns
        self.t = 0

    def step(self, gradient: Tensor) -> None:
        """One update from `gradient`, which has the weight's shape."""
        g = _rows(gradient)
        self.t += 1
        beta = self.beta or 1.0 - self.t**-0.8  # the paper's; the released code's
        v = self._second_moment(g, beta)
        cells = [(i, j) for i in range(self.num_rows) for j in range(self.num_columns)]
        u = {(i, j): g[i][j] / math.sqrt(v[i][j]) for i, j in cells}
        rms_u = math.sqrt(sum(value**2 for value in u.values()) / len(cells))
        rms_theta = math.sqrt(sum(self.theta[i][j] ** 2 for i, j in cells) / len(cells))
        step = self.lr * max(self.eps[1], rms_theta)
        for i, j in cells:
            self.theta[i][j] *= 1.0 - step * self.weight_decay
            self.theta[i][j] -= step * u[i, j] / max(1.0, rms_u / self.threshold)

    def weight(self) -> Tensor:
        """The weight now, float64, in its own shape."""
        return torch.tensor(self.theta, dtype=torch.float64).reshape(self.shape)

    def _second_moment(self, g: list[list[float]], beta: float) -> list[list[float]]:
        squares = [[value**2 + self.eps[0] for value in row] for row in g]
        if len(self.shape) == 1:
            for j, square in enumerate(squares[0]):
                self.square[j] = beta * self.square[j] + (1.0 - beta) * square
            return [self.square]
        for i, row in enumerate(squares):
            self.row[i] = beta * self.row[i] + (1.0 - beta) * sum(row)
        for j in range(self.num_columns):
            total = sum(row[j] for row in squares)
            self.column[j] = beta * self.column[j] + (1.0 - beta) * total
        return [[r * c / sum(self.row) for c in self.column] for r in self.row]


def _rows(tensor: Tensor) -> list[list[float]]:
    rows: list[list[float]] = tensor.detach().double().reshape(-1, tensor.shape[-1]).tolist()
    return rows
