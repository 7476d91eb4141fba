"""Draw the ratios of one benchmark's CSV files as bars beside the line at 1.

    python -m bench.plot bench/results/cpu-*-conv2d-*.csv --output docs/conv2d-cpu.svg

A row is a shape, an op or a network, a column a verb. To the right of the line convolt is faster;
bars end at 3, their numbers do not.

    python -m bench.plot DIR/resnet50-bf16.csv --roofline --output roofline.svg

draws the convolutions of a GPU below its roofline: a point is a shape and verb, TFLOP/s over
operations a byte moved at least, both axes logarithmic.

The kind of picture is the suffix of the output. Needs matplotlib: pip install 'convolt[bench]'.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import geometric_mean
from typing import Any

LABEL = {"conv2d": ("network", "name"), "memory_bound": ("op",), "training_step": ("model",)}
COLUMN = {"conv2d": "verb"}

VERB = {"fprop": ("#0072b2", "o"), "dgrad": ("#d55e00", "s"), "wgrad": ("#009e73", "^")}
FASTER, SLOWER = "#0072b2", "#d55e00"  # told apart by those who see few colours, too
MOST = 3  # longer bars are cut off
ROW_INCHES, COLUMN_INCHES, HEADER_INCHES, LABEL_INCHES = 0.17, 2.3, 1.0, 2.2

Row = dict[str, str]


class Unfit(Exception):
    """The files do not fit together; the message says why."""


def read(paths: Iterable[Path], column: str = "ratio") -> list[Row]:
    """Return the rows that have a number in a column.

    Raises:
        Unfit: There are none, or they are of several benchmarks, or of one that has no picture.
    """
    rows: list[Row] = []
    for path in paths:
        with path.open(newline="") as file:
            rows += [row for row in csv.DictReader(file) if row.get(column)]
    kinds = sorted({row.get("benchmark", "") for row in rows})
    if len(kinds) != 1 or kinds[0] not in LABEL:
        raise Unfit(
            f"the files hold {column}s of {', '.join(kinds) or 'nothing'}; one benchmark at a "
            f"time: {', '.join(LABEL)}"
        )
    return rows


def draw(rows: list[Row], output: Path) -> None:
    """Draw the ratios and write the picture."""
    kind = rows[0]["benchmark"]
    labels = list(dict.fromkeys(" ".join(row[key] for key in LABEL[kind]) for row in rows))
    columns = list(dict.fromkeys(row.get(COLUMN.get(kind, ""), "ratio") for row in rows))
    size = (
        LABEL_INCHES + COLUMN_INCHES * len(columns),
        HEADER_INCHES + ROW_INCHES * len(labels),
    )
    options = {"sharex": True, "sharey": True, "squeeze": False, "layout": "tight"}
    with _picture(output, 1, len(columns), figsize=size, **options) as (figure, axes):
        for axis, column in zip(axes[0], columns, strict=True):
            of = [row for row in rows if row.get(COLUMN.get(kind, ""), "ratio") == column]
            _bars(axis, column, of, {label: i for i, label in enumerate(labels)}, kind)
        axes[0][0].set_yticks(range(len(labels)), labels)
        axes[0][0].invert_yaxis()
        axes[0][0].margins(y=0.5 / len(labels))
        figure.suptitle(_title(rows), fontsize=8)


def draw_roofline(rows: list[Row], output: Path) -> None:
    """Draw the speed of a GPU's convolutions below its ceilings and write the picture."""
    intensity = [float(row["flops_per_byte"]) for row in rows]
    first = rows[0]
    bytes_s = float(first["ceiling_copy_gigabytes_per_s"]) / 1e3  # of a teraflop's operations
    ends = min(intensity) / 2, max(intensity) * 2
    with _picture(output, figsize=(6, 4), layout="tight") as (figure, axis):
        for peak in sorted({float(row["ceiling_tflops"]) for row in rows}):
            corner = max(ends[0], peak / bytes_s)
            roof = sorted({ends[0], corner, max(ends[1], corner)})
            axis.plot(roof, [min(peak, x * bytes_s) for x in roof], color="black", linewidth=0.8)
        for verb, (color, marker) in VERB.items():
            of = [
                (i, float(row["tflops"]))
                for i, row in zip(intensity, rows, strict=True)
                if row["verb"] == verb
            ]
            if of:
                axis.scatter(*zip(*of, strict=True), s=12, c=color, marker=marker, label=verb)
        axis.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="TFLOP/s")
        axis.legend()
        mean = geometric_mean(float(row["roofline_share"]) for row in rows)
        figure.suptitle(
            f"conv2d: {mean:.0%} of the roofline in geometric mean ({first['ceilings']} ceilings)\n"
            f"{_where(first)}",
            fontsize=8,
        )


@contextmanager
def _picture(output: Path, *shape: int, **options: Any) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes to draw on, and write it in the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "convolt", "font.size": 7}
    style |= {"font.sans-serif": ["DejaVu Sans"]}  # no list of others, at each text of an SVG
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(*shape, **options)
        yield figure, axes
        metadata: dict[str, Any] = {"Date": None} if output.suffix == ".svg" else {}
        figure.savefig(output, metadata=metadata, dpi=110)
        pyplot.close(figure)


def _bars(axis: Any, column: str, rows: list[Row], place: dict[str, int], kind: str) -> None:
    ratios = [float(row["ratio"]) for row in rows]
    places = [place[" ".join(row[key] for key in LABEL[kind])] for row in rows]
    ends, colors = [min(r, MOST) for r in ratios], [FASTER if r >= 1 else SLOWER for r in ratios]
    axis.hlines(places, 0, ends, colors, linewidth=0.8 * 72 * ROW_INCHES)
    for y, ratio in zip(places, ratios, strict=True):
        axis.text(0.04, y, f"{ratio:.2f}", color="white", va="center", fontsize=6)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xlim(0, MOST if max(ratios) > 2 else 2)
    axis.spines[["top", "right"]].set_visible(False)
    if column != "ratio":
        axis.set_title(f"{column}, {geometric_mean(ratios):.2f}", fontsize=7)


def _title(rows: list[Row]) -> str:
    first = rows[0]
    versions = f"convolt {first['backend']} and {first['peer']} {first.get(first['peer'], '')}"
    mean = geometric_mean(float(row["ratio"]) for row in rows)
    return (
        f"{first['benchmark']}: time of {first['peer']} / ours, in geometric mean {mean:.2f}\n"
        f"{versions}\n{_where(first)}"
    )


def _where(row: Row) -> str:
    """What computed, with what numbers, and when."""
    machine = row.get("gpu") or f"{row['cpu']}, {row['threads']} threads"
    return f"{machine}, {row['dtype']}, {row['date'][:10]}"


def main() -> int:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description="Draw results.")
    parser.add_argument("files", nargs="+", type=Path, metavar="CSV")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".svg or .png")
    parser.add_argument("--roofline", action="store_true", help="of a GPU's convolutions")
    arguments = parser.parse_args()
    try:
        if arguments.roofline:
            draw_roofline(read(arguments.files, "roofline_share"), arguments.output)
        else:
            draw(read(arguments.files), arguments.output)
    except (Unfit, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
