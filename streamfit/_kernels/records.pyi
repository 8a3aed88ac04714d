from streamfit.types import FloatArray

LABEL: int
WEIGHT: int
NOTHING: int

def read_number(text: bytes) -> float | None: ...

class SameRecords:
    pieces: list[bytes]
    columns: list[int]
    def __init__(self, pieces: list[bytes], columns: list[int]) -> None: ...
    def read(
        self, records: list[bytes | None], max_bytes: int
    ) -> tuple[FloatArray, list[bool | int | float | str], list[bool | int | float]] | None: ...
