"""Whether kernels can move 16 bytes of each array with one instruction."""

from ..arrays import Array, address

PACK_BYTES = 16  # the widest access of a thread


def packable(length: int, *arrays: Array) -> bool:
    """Return whether lines of ``length`` elements fall into packs, in all ``arrays`` alike.

    A pack has as many elements as 16 bytes of the first array hold. The lines must be a multiple
    of that, and the arrays begin at a multiple of their packs' size, which a view need not.
    """
    elements = PACK_BYTES // arrays[0].itemsize
    return length % elements == 0 and all(
        address(array) % (elements * array.itemsize) == 0 for array in arrays
    )


def pack_length(array: Array, packed: bool) -> int:
    """Return the number of elements of ``array`` that a thread takes at once."""
    return PACK_BYTES // array.itemsize if packed else 1
