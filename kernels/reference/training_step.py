"""The training loop in NumPy: the twin that the compiled epoch is held against, and ``backend="numpy"``.

Imports `reference` and `plan`. The same plan, purposes and results as `epoch`, written to be read: forward, loss,
backward, update.
"""

from typing import Any

import numpy as np

from ..engine.plan import (
    ACTIVATION,
    BATCH,
    BATCH_WEIGHT,
    CLIP,
    CORRECT,
    DONE,
    L2,
    L2_PER_BATCH,
    LOSS,
    LOSS_SUM,
    MAX_ROW_LOSS,
    MEAN_LOSS,
    OPTIMIZER,
    PARTIAL_CORRECT,
    PARTIAL_LOSS,
    PARTIAL_WEIGHT,
    PENALTY,
    PREDICT,
    ROW,
    STEP,
    TRAIN,
    WEIGHT_SUM,
    Array,
    B,
    K,
    N,
    Plan,
    W,
    micro_batch_rows,
)
from . import activations, layers, losses, optimizers


def run(
    plan: Plan,
    purpose: int,
    X: Array,
    y: Array | None,
    weights: Array | None,
    order: Array | None,
    out: Array | None,
    rates: Array,
    first_row: int,
    stop_row: int,
    epoch_rows: int,
) -> None:
    """From ``progress[DONE]`` to ``stop_row``, slice by slice; arguments as of `epoch.run`, arrays for addresses."""
    progress, totals, batch = plan.progress, plan.totals, int(plan.book[BATCH])
    with np.errstate(all="ignore"):  # a loss of inf or NaN says it all
        while progress[DONE] < stop_row:
            start = int(progress[DONE])
            batch_start = start // batch * batch
            batch_stop = min(batch_start + batch, epoch_rows)
            stop = min(start + micro_batch_rows(batch), batch_stop)
            rows = slice(start - first_row, stop - first_row)
            chosen: Any = rows if order is None else order[start:stop]

            inputs = [X[chosen]]
            Zs = []
            for layer in plan.layers:
                A, Z = layers.dense_forward(inputs[-1], *_views(plan.parameters, layer), _activation(layer).function)
                inputs.append(A)
                Zs.append(Z)
            outputs = inputs.pop()
            if purpose == PREDICT:
                assert out is not None
                out[rows] = outputs
            else:
                assert y is not None
                row_losses, D, right = losses.row_losses(int(plan.book[LOSS]), y[chosen], outputs)
                row_losses = np.minimum(row_losses, plan.objective_terms[MAX_ROW_LOSS])
                visited: Any = slice(start, stop) if order is None else chosen
                w = np.ones(stop - start) if weights is None else weights[visited]
                totals[PARTIAL_LOSS] += np.sum(w * row_losses)
                totals[PARTIAL_WEIGHT] += np.sum(w)
                progress[PARTIAL_CORRECT] += right
                if purpose == TRAIN:
                    if start == batch_start:
                        plan.gradient[:] = 0
                        all_rows: Any = slice(batch_start, batch_stop)
                        all_rows = all_rows if order is None else order[all_rows]
                        total = batch_stop - batch_start if weights is None else weights[all_rows].sum()
                        totals[BATCH_WEIGHT] = total
                    row_weights = np.divide(w, totals[BATCH_WEIGHT], out=np.zeros_like(w), where=w > 0)
                    _backward(plan, inputs, Zs, D * row_weights[:, None].astype(D.dtype))
                    if stop == batch_stop:
                        batch_weight = float(totals[BATCH_WEIGHT])
                        if batch_weight > 0:
                            mean = (batch_stop - batch_start) / batch_weight
                            plan.objective_terms[MEAN_LOSS] += totals[PARTIAL_LOSS] * mean
                            plan.objective_terms[PENALTY] += (
                                plan.objective_terms[L2_PER_BATCH] / 2 * _squares(plan) * mean
                            )
                        _update(plan, float(rates[min(batch_start // batch, len(rates) - 1)]))
            progress[DONE] = stop
            if stop == batch_stop:
                progress[ROW] = stop
                progress[STEP] += 1
                progress[CORRECT] += progress[PARTIAL_CORRECT]
                totals[[LOSS_SUM, WEIGHT_SUM]] += totals[[PARTIAL_LOSS, PARTIAL_WEIGHT]]
                progress[PARTIAL_CORRECT] = 0
                totals[[PARTIAL_LOSS, PARTIAL_WEIGHT]] = 0


def _activation(layer: Array) -> activations.Activation:
    return activations.ACTIVATIONS[layer[ACTIVATION]]


def _views(flat: Array, layer: Array) -> tuple[Array, Array]:
    """W (k, n) and b (k,) of a layer."""
    n, k, w, b = layer[[N, K, W, B]]
    return flat[w : w + k * n].reshape(k, n), flat[b : b + k]


def _squares(plan: Plan) -> float:
    """Sum of all squared weights, biases excepted."""
    return sum(float(np.sum(np.square(_views(plan.parameters, layer)[0], dtype=np.float64))) for layer in plan.layers)


def _backward(plan: Plan, inputs: list[Array], Zs: list[Array], dL_dA: Array) -> None:
    """Add the gradient of a slice."""
    for layer, X, Z in reversed(list(zip(plan.layers, inputs, Zs, strict=True))):
        weights, _ = _views(plan.parameters, layer)
        dW, db, dL_dA = layers.dense_backward_batch(X, Z, dL_dA, weights, _activation(layer).derivative)
        gradient_W, gradient_b = _views(plan.gradient, layer)
        gradient_W += dW
        gradient_b += db


def _update(plan: Plan, rate: float) -> None:
    """l2, clipping, the optimizer's step."""
    optimizer, hyper, gradient = plan.book[OPTIMIZER], plan.hyper.tolist(), plan.gradient
    batch_weight = float(plan.totals[BATCH_WEIGHT])
    l2 = hyper[L2] + (float(plan.objective_terms[L2_PER_BATCH]) / batch_weight if batch_weight > 0 else 0.0)
    for layer in plan.layers:
        weights, _ = _views(plan.parameters, layer)
        gradient_W, _ = _views(gradient, layer)
        gradient_W += l2 * weights
    norm = float(np.linalg.norm(gradient.astype(np.float64)))
    if not norm <= hyper[CLIP]:
        gradient *= hyper[CLIP] / norm
    step = int(plan.progress[STEP]) + 1
    optimizers.update(int(optimizer), plan.parameters, gradient, list(plan.state), hyper, rate, step)
