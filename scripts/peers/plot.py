"""A bar plot as SVG text, readable on light and on dark ground."""

from __future__ import annotations

from html import escape

WIDTH, LEFT, RIGHT, BAR, GAP, GROUP_GAP = 860, 210, 96, 15, 3, 12
STYLE = """
  .ground { fill: #ffffff; }
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 15px; font-weight: 600; }
  .note { font-size: 11px; fill: #57606a; }
  .rule { stroke: #d0d7de; }
  .bar0 { fill: #0f7b6c; } .bar1 { fill: #8c959f; } .bar2 { fill: #c8ccd1; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; } text { fill: #e6edf3; } .note { fill: #9198a1; } .rule { stroke: #3d444d; }
    .bar0 { fill: #3fb8a5; } .bar1 { fill: #7d8590; } .bar2 { fill: #4d555e; }
  }
"""


class Page:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = 0.0

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        kind = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{kind} text-anchor="{anchor}">{escape(words)}</text>')

    def bar(self, y: float, width: float, kind: int) -> None:
        width = max(width, 1)
        self.parts.append(f'<rect class="bar{kind}" x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="2"/>')


def plot(title: str, notes: list[str], programs: list[str], sections: list[tuple[str, list]]) -> str:
    """Sections of groups: (words, {program: value}). Each section has its own scale: a bar's length is tokens per second."""
    page = Page()
    page.text(16, 28, title, "title")
    x = 16.0
    for i, program in enumerate(programs):
        page.parts.append(f'<rect class="bar{min(i, 2)}" x="{x:.1f}" y="42" width="12" height="12" rx="2"/>')
        page.text(x + 17, 52, program)
        x += 40 + 7.5 * len(program)
    page.y = 70
    for name, groups in sections:
        section(page, name, groups, programs)
    for note in notes:
        page.text(16, page.y + 14, note, "note")
        page.y += 16
    height = page.y + 12
    body = "\n".join(page.parts)
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    # Of its own: a page may be dark where the system is light.
    ground = f'<rect class="ground" width="{WIDTH}" height="{height:.0f}"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return f"{head}\n<style>{STYLE}</style>\n{ground}\n{body}\n</svg>\n"


def section(page: Page, name: str, groups: list, programs: list[str]) -> None:
    largest = max((value for _, values in groups for value in values.values()), default=1)
    scale = (WIDTH - LEFT - RIGHT) / largest
    page.text(16, page.y + 14, name, "title")
    page.parts.append(f'<line class="rule" x1="16" x2="{WIDTH - 16}" y1="{page.y + 21:.1f}" y2="{page.y + 21:.1f}"/>')
    page.y += 30
    for words, values in groups:
        page.text(LEFT - 10, page.y + (BAR + GAP) * len(values) / 2 + 3, words, anchor="end")
        ours = values.get(programs[0])
        for i, program in enumerate(programs):
            if program not in values:
                continue
            value = values[program]
            page.bar(page.y, value * scale, min(i, 2))
            ratio = f"  ({ours / value:.2f}x)" if i and ours else ""
            page.text(LEFT + max(value * scale, 1) + 6, page.y + BAR - 3, f"{value:.{1 if value < 100 else 0}f}{ratio}")
            page.y += BAR + GAP
        page.y += GROUP_GAP
    page.y += 8
