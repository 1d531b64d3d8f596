"""The tolerances of equality, absolute, on vectors of length 1 and on scores."""

from __future__ import annotations

# A served vector or score, and the published one, in fp32.
PARITY = 1e-4
# A row of a batch and the same row alone: padding and neighbours move sums in their last digits.
ROW = 1e-5
# A score in one request with others, and alone.
SCORE = 1e-6
# A vector's length, and 1.
LENGTH = 1e-5
# A mistake moves vectors by this much at least, or the tolerances above would mean nothing.
MISTAKE = 10 * PARITY
