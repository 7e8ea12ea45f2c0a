#!/usr/bin/python3
"""Draws what kv_locality prints: usage: plot.py LOG OUT.svg

One panel for each algorithm: the share of chosen pages that were in HBM already, over the size of the
buffer. No dependencies: an SVG is text.
"""

import pathlib
import re
import sys

PANEL_WIDTH, PANEL_HEIGHT = 420, 320
LEFT, TOP, RIGHT, BOTTOM = 58, 40, 16, 92
COLOURS = {"belady": "#111111", "slot_lru": "#1f6fb4", "bucketed/1": "#2e8b3d", "bucketed/2": "#c08a00",
           "bucketed/4": "#c0392b", "random": "#8a8a8a"}
DASHES = {"belady": "6 3", "random": "2 3", "bucketed/1": "9 3", "bucketed/2": "5 2 1 2", "bucketed/4": "1 2"}
FORMAT = "www.w3.org/2000/svg"  # the name of SVG's elements
LINE = re.compile(r"^(\w+) +([\w/]+) +(\d+)x +[\d.]+% +([\d.]+) +([\d.]+) +[\d.]+$")


def read(log):
    """Algorithm -> policy -> [(buffering, hit ratio of chosen pages)]."""
    curves = {}
    for line in log.splitlines():
        found = LINE.match(line)
        if found:
            algorithm, policy, buffering, chosen, _ = found.groups()
            points = curves.setdefault(algorithm, {}).setdefault(policy, [])
            points.append((int(buffering), float(chosen)))
    return curves


def text(x, y, words, anchor="middle", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def line(x1, y1, x2, y2, colour="#dddddd"):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def panel(left, algorithm, policies, bottom):
    points = [point for curve in policies.values() for point in curve]
    last = max(x for x, _ in points)

    def place(buffering, hit):
        return left + PANEL_WIDTH * buffering / last, TOP + PANEL_HEIGHT * (1 - hit) / (1 - bottom)

    out = [text(left + PANEL_WIDTH / 2, TOP - 14, algorithm, size=14)]
    for tenth in range(round(bottom * 10), 11):
        x, y = place(0, tenth / 10)
        out += [line(x, y, x + PANEL_WIDTH, y), text(x - 8, y + 4, f"{tenth / 10:.1f}", "end")]
    for buffering in range(last + 1):
        x, y = place(buffering, bottom)
        out += [line(x, y, x, y + 5, "#555555"), text(x, y + 19, f"{buffering}x")]
    for policy, curve in policies.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        out.append(f'<polyline points="{path}" fill="none" stroke-width="1.8" stroke="{COLOURS[policy]}" '
                   f'stroke-dasharray="{DASHES.get(policy, "none")}"/>')
    out.append(text(left + PANEL_WIDTH / 2, TOP + PANEL_HEIGHT + 40, "buffering : mandatory"))
    return out


def legend(names):
    out = []
    for i, policy in enumerate(names):
        x, y = LEFT + 130 * i, TOP + PANEL_HEIGHT + 72
        out.append(f'<line x1="{x}" y1="{y}" x2="{x + 30}" y2="{y}" stroke="{COLOURS[policy]}" '
                   f'stroke-width="2" stroke-dasharray="{DASHES.get(policy, "none")}"/>')
        out.append(text(x + 36, y + 4, policy, "start"))
    return out


def draw(curves):
    lowest = min(hit for policies in curves.values() for curve in policies.values() for _, hit in curve)
    bottom = int(lowest * 10) / 10 if lowest < 0.9 else 0.9
    width = (LEFT + PANEL_WIDTH + RIGHT) * max(2, len(curves))
    height = TOP + PANEL_HEIGHT + BOTTOM
    out = [f'<svg xmlns="http://{FORMAT}" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" font-family="sans-serif" fill="#222222">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    for i, (algorithm, policies) in enumerate(curves.items()):
        out += panel(LEFT + i * (LEFT + PANEL_WIDTH + RIGHT), algorithm, policies, bottom)
    middle = TOP + PANEL_HEIGHT / 2
    out.append(f'<text x="16" y="{middle}" text-anchor="middle" font-size="12" '
               f'transform="rotate(-90 16 {middle})">hits among chosen pages</text>')
    return "\n".join(out + legend(next(iter(curves.values()))) + ["</svg>"]) + "\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    curves = read(pathlib.Path(sys.argv[1]).read_text())
    if not curves:
        sys.exit(f"{sys.argv[1]}: no table of hit ratios in it")
    pathlib.Path(sys.argv[2]).write_text(draw(curves))
    print(f"plot: {sys.argv[2]}")


if __name__ == "__main__":
    main()
