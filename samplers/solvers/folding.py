"""Plans with fewer operations, whose states are the same up to rounding."""

from collections.abc import Iterable
from itertools import pairwise

from .plan import Plan, Row, Step


def fold(plan: Plan) -> Plan:
    """The same plan at fewer operations: evaluations are scaled, and all their weights with them.

    k/p = y + (q/p) s takes one operation instead of two. Where p = 0 and no evaluation is
    remembered, k/q = s takes none; elsewhere k is scaled to have weight 1 in its own row, and the
    product is the copy that memory needs, since a score may return the same tensor every time.
    """
    divisors, folded, forgets = list[float](), list[Step](), plan.depth == 1
    for step in plan:
        rows = []
        for t, p, q, x, k, z, data in step.rows:
            if data:
                divisors.append(1.0)
            elif t is not None:
                own = next((weight for lag, weight in k if lag == 0), 1.0)
                divisors.append(1 / p if p else 1 / q if forgets else own)
                p, q = (1.0, q / p) if p else (0.0, 1.0 if forgets else q * own)
            k = tuple((lag, weight / divisors[-1 - lag]) for lag, weight in k)
            rows.append(Row(t, p, q, x, k, z, data))
        folded.append(step._replace(rows=tuple(rows)))
    return Plan(tuple(folded))


def merge(plan: Plan) -> Plan:
    """A plan of predictions y and corrections x with one combination a step instead of two.

        y = B x + Σ b k,   x′ = C x + Σ c k,   y′ = B′ x′ + Σ b′ k

    of two steps give y′ = B′ [(C/B) (y − Σ b k) + Σ c k] + Σ b′ k, and x is never made. The states
    between steps are then predictions, so this is for runs that use none of
    them (`SamplingContext.watched`).
    A plan that is not of this form is returned unchanged.
    """
    steps = plan.steps
    corrected = [len(step.rows) == 2 and step.rows[1].t is not None for step in steps]
    if not any(corrected) or corrected[-1] or plan.draws_noise:
        return plan
    for here, (step, following) in zip(corrected, pairwise(steps), strict=False):
        if here and (following.rows[0].t is not None or step.rows[0].x == 0):
            return plan
    merged = [
        step._replace(rows=step.rows[:1] if c else step.rows)
        for step, c in zip(steps, corrected, strict=True)
    ]
    for i in range(1, len(steps)):
        if corrected[i - 1]:
            predict, correct = steps[i - 1].rows
            row = _combine(predict, correct, steps[i].rows[0])
            merged[i] = steps[i]._replace(rows=(row,))
    return Plan(tuple(merged))


def _combine(predict: Row, correct: Row, following: Row) -> Row:
    """The next prediction as one combination of the last one, `correct`'s evaluation and memory."""
    ratio = correct.x / predict.x
    corrected = [(lag, following.x * weight) for lag, weight in correct.k]
    undone = [(lag + 1, -following.x * ratio * weight) for lag, weight in predict.k]
    return correct._replace(x=following.x * ratio, k=_sum(following.k, corrected, undone))


def _sum(*terms: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """The sum of weights of the same evaluations, lags in order."""
    total: dict[int, float] = {}
    for lag, weight in (pair for weights in terms for pair in weights):
        total[lag] = total.get(lag, 0.0) + weight
    return tuple(sorted((lag, weight) for lag, weight in total.items() if weight))
