"""The scan, compiled by numba: the fast twin of `predictors.py`, which every request runs.

Imported only where the machine code must be made (`_native.py`); all other processes load the
stored code and never pay for importing numba.

How it gets fast, in order of effect:

1. A row of a block is ``width`` contiguous bytes of the image's own (H, channels·W) rows, so the
   uint8 image is compared in place: nothing is converted, copied or patchified.
2. Which blocks equal their left neighbor, pixel for pixel, is found for a whole row of blocks at
   once, in memory order and over runs of blocks that are still equal (`_mark_equal_left`). A run
   ends at its first difference, so a photograph leaves this after one row of pixels.
3. A block equal to its left neighbor matches all that the neighbor matched: no comparison.
4. Two blocks rebuilt from the same kept block are equal: no comparison.
5. What remains is compared in chunks of 64 bytes, which the compiler turns into vector
   instructions, with an early exit after each chunk.

Indices into pixels are unsigned: numba would otherwise test each for being negative.
"""

from numba import cfunc, njit, types, uint8, uint32, uint64

from pixelprune.selection._codes import EXACT, MAX, RASTER, RMSE, SERPENTINE

_CHUNK = 64

SIGNATURE = types.void(
    types.CPointer(types.uint8),  # pixels: first byte of the image
    types.int64,  # stride: bytes from one row of pixels to the next
    types.int64,  # width: bytes in one row of a block, B·channels
    types.int64,  # block: rows in a block, B
    types.int64,  # rows: R
    types.int64,  # columns: C
    types.int64,  # predictor: a code of _codes.py
    types.int64,  # metric: also a code; EXACT if the limit is 0
    types.int64,  # limit: the largest total that matches, see metrics.py
    types.int64,  # decoding: 1 if `kept` says which blocks are kept, 0 to decide it here
    types.CPointer(types.uint8),  # kept: (R·C,) flags, read only when decoding
    types.CPointer(types.int32),  # source: (R·C,) result
    types.CPointer(types.uint8),  # equal: (C,) scratch
    types.CPointer(types.int64),  # runs: (4·(C + 1),) scratch
)


@njit(error_model="numpy")
def _equal(pixels, x, y, count):
    """Whether the `count` bytes at x and at y are the same."""
    x, y, count, chunk = uint64(x), uint64(y), uint64(count), uint64(_CHUNK)
    i = uint64(0)
    if count >= chunk:
        last = count - chunk
        while True:
            difference = uint8(0)
            for k in range(chunk):
                difference = uint8(difference | uint8(pixels[x + i + k] ^ pixels[y + i + k]))
            if difference != 0:
                return False
            if i == last:
                return True
            # The last chunk may overlap the one before: no slow loop for the remainder.
            i = min(i + chunk, last)
    for k in range(count):
        if pixels[x + k] != pixels[y + k]:
            return False
    return True


@njit(error_model="numpy")
def _within(pixels, x, y, count, limit):
    """Whether no byte at x differs by more than `limit` from its counterpart at y."""
    x, y, count, chunk = uint64(x), uint64(y), uint64(count), uint64(_CHUNK)
    i = uint64(0)
    if count >= chunk:
        last = count - chunk
        while True:
            largest = uint8(0)
            for k in range(chunk):
                p, q = pixels[x + i + k], pixels[y + i + k]
                largest = max(largest, uint8(max(p, q) - min(p, q)))
            if largest > limit:
                return False
            if i == last:
                return True
            i = min(i + chunk, last)
    for k in range(count):
        p, q = pixels[x + k], pixels[y + k]
        if max(p, q) - min(p, q) > limit:
            return False
    return True


@njit(error_model="numpy")
def _total(pixels, x, y, count, squared):
    """Σ |Δ| or, if `squared`, Σ Δ² of the `count` bytes at x and at y."""
    x, y, count, chunk = uint64(x), uint64(y), uint64(count), uint64(_CHUNK)
    total, i = uint64(0), uint64(0)
    while i + chunk <= count:
        part = uint32(0)
        if squared:
            for k in range(chunk):
                p, q = pixels[x + i + k], pixels[y + i + k]
                delta = uint32(uint8(max(p, q) - min(p, q)))
                part = uint32(part + uint32(delta * delta))
        else:
            for k in range(chunk):
                p, q = pixels[x + i + k], pixels[y + i + k]
                part = uint32(part + uint32(uint8(max(p, q) - min(p, q))))
        total += uint64(part)
        i += chunk
    while i < count:
        p, q = pixels[x + i], pixels[y + i]
        delta = uint64(max(p, q) - min(p, q))
        total += delta * delta if squared else delta
        i += uint64(1)
    return total


@njit(error_model="numpy")
def _match(pixels, p, q, stride, width, block, columns, metric, limit):
    """Whether blocks p and q, as they stand in the image, are within `limit` of each other."""
    x = p // columns * block * stride + p % columns * width
    y = q // columns * block * stride + q % columns * width
    total = uint64(0)
    for _ in range(block):
        if metric == EXACT:
            if not _equal(pixels, x, y, width):
                return False
        elif metric == MAX:
            if not _within(pixels, x, y, width, limit):
                return False
        else:
            total += _total(pixels, x, y, width, metric == RMSE)
            if total > uint64(limit):
                return False
        x += stride
        y += stride
    return True


@njit(error_model="numpy")
def _mark_equal_left(pixels, first, stride, width, block, columns, equal, runs):
    """Set equal[j] for each block j of a row of blocks whose pixels equal those of block j − 1.

    `first` is the offset of the row of blocks. `runs` holds two lists of [start, end) ranges of
    blocks that were equal so far, one being read while the other is written.
    """
    for j in range(columns):
        equal[j] = uint8(0)
    capacity = columns + 1
    old, new = 0, capacity
    runs[0], runs[1] = 1, columns
    count = 1 if columns > 1 else 0
    for _ in range(block):
        written = 0
        for run in range(count):
            start, end = runs[2 * (old + run)], runs[2 * (old + run) + 1]
            at = first + start * width
            if _equal(pixels, at, at - width, (end - start) * width):
                runs[2 * (new + written)], runs[2 * (new + written) + 1] = start, end
                written += 1
                continue
            for j in range(start, end):
                at = first + j * width
                if not _equal(pixels, at, at - width, width):
                    if j > start:
                        runs[2 * (new + written)], runs[2 * (new + written) + 1] = start, j
                        written += 1
                    start = j + 1
            if end > start:
                runs[2 * (new + written)], runs[2 * (new + written) + 1] = start, end
                written += 1
        count = written
        old, new = new, old
        first += stride
        if count == 0:
            return
    for run in range(count):
        for j in range(runs[2 * (old + run)], runs[2 * (old + run) + 1]):
            equal[j] = uint8(1)


@njit(error_model="numpy")
def _predict(pixels, n, i, j, stride, width, block, columns, predictor, metric, limit, source):
    """The kept block that predicts block n = (i, j), or −1; the rules of pixelprune.predictors."""
    if n == 0:
        return -1
    if predictor == RASTER:
        return source[n - 1]
    if predictor == SERPENTINE:
        if i % 2:
            return source[n + 1] if j < columns - 1 else source[n - columns]
        return source[n - 1] if j > 0 else source[n - columns]
    if i == 0:
        return source[n - 1]
    if j == 0:
        return source[n - columns]
    a, b, c = source[n - 1], source[n - columns], source[n - columns - 1]
    if b == a or b == c:  # the choice makes no difference, or C matches B
        return a
    if c != a and not _match(pixels, c, a, stride, width, block, columns, metric, limit):
        return a
    return a if _match(pixels, c, b, stride, width, block, columns, metric, limit) else b


@cfunc(SIGNATURE, error_model="numpy")
def scan(
    pixels, stride, width, block, rows, columns, predictor, metric, limit, decoding, kept, source, equal, runs
):  # fmt: skip
    """Fill `source`: for each block the kept block that rebuilds it, itself if it is kept."""
    for i in range(rows):
        if not decoding:
            _mark_equal_left(pixels, i * block * stride, stride, width, block, columns, equal, runs)
        backwards = predictor == SERPENTINE and i % 2 == 1
        for step in range(columns):
            j = columns - 1 - step if backwards else step
            n = i * columns + j
            near = n + 1 if backwards else n - 1
            p = _predict(pixels, n, i, j, stride, width, block, columns, predictor, metric, limit, source)
            if decoding:
                drop = kept[n] == 0 and p >= 0
            elif step > 0 and p == source[near] and (metric == EXACT or equal[max(n, near) - i * columns]):
                # What rebuilds the neighbor of this block also rebuilds its equal; if all is exact,
                # it rebuilds nothing else.
                drop = equal[max(n, near) - i * columns] != 0
            else:
                drop = p >= 0 and _match(pixels, n, p, stride, width, block, columns, metric, limit)
            source[n] = p if drop else n
