"""How every page that is an artifact looks: one style, light and dark, for screens and paper."""

from pathlib import Path

#: goes into a page's own <style>, because a report is one file
STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
