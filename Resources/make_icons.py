"""Draw the icons of the extension and its modules: python Resources/make_icons.py (needs PySide6).

Slicer takes one icon a module, Resources/Icons/<Module>.png, for its light and its dark style. Each icon is therefore
the same liver in colours that stand out from both (contrast 3 or more), with one sign on it: an outline with its
tumour (NeoNetSeg), a grid of patches (NeoNetGen), a gauge (NeoNetCls), a net (NeoNet, and the extension).
"""

import os
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QGuiApplication, QImage, QPainter, QPainterPath, QPen

ROOT = Path(__file__).resolve().parents[1]
SIZE = 128
LIVER, SIGN = QColor("#d95b43"), QColor("#4a86d8")


def liver() -> QPainterPath:
    """A liver as seen from the front: the large right lobe on the viewer's left."""
    path = QPainterPath(QPointF(12, 46))
    path.cubicTo(14, 16, 46, 8, 74, 18)
    path.cubicTo(92, 24, 110, 22, 120, 32)
    path.cubicTo(126, 40, 116, 52, 104, 58)
    path.cubicTo(84, 68, 76, 78, 66, 94)
    path.cubicTo(56, 112, 38, 122, 26, 112)
    path.cubicTo(12, 100, 10, 72, 12, 46)
    return path


def pen(colour: QColor | Qt.GlobalColor, width: float) -> QPen:
    return QPen(QBrush(colour), width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin)


def disc(painter: QPainter, x: float, y: float, radius: float, colour: QColor | Qt.GlobalColor) -> None:
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(colour)
    painter.drawEllipse(QPointF(x, y), radius, radius)


def outline(painter: QPainter) -> None:
    """NeoNetSeg: the liver's outline and a filled tumour."""
    painter.setPen(pen(LIVER, 13))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.drawPath(liver())
    disc(painter, 46, 58, 19, SIGN)


def patches(painter: QPainter) -> None:
    """NeoNetGen: the liver and four patches that come of it."""
    painter.fillPath(liver(), LIVER)
    clear(painter, QRectF(52, 52, 76, 76), 10)
    for x, y in ((60, 60), (95, 60), (60, 95), (95, 95)):
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(SIGN)
        painter.drawRoundedRect(QRectF(x, y, 29, 29), 5, 5)


def gauge(painter: QPainter) -> None:
    """NeoNetCls: the liver and a gauge whose hand points up to the right."""
    painter.fillPath(liver(), LIVER)
    clear(painter, QRectF(42, 52, 86, 74), 36)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(pen(SIGN, 12))
    painter.drawArc(QRectF(56, 66, 64, 64), -10 * 16, 200 * 16)
    painter.setPen(pen(SIGN, 8))
    painter.drawLine(QPointF(88, 100), QPointF(104, 84))
    disc(painter, 88, 100, 8, SIGN)


def net(painter: QPainter) -> None:
    """NeoNet: three joined nodes in the liver."""
    painter.fillPath(liver(), LIVER)
    nodes = [(36, 46), (82, 40), (44, 88)]
    painter.setPen(pen(Qt.GlobalColor.white, 7))
    for begin, end in ((0, 1), (0, 2), (1, 2)):
        painter.drawLine(QPointF(*nodes[begin]), QPointF(*nodes[end]))
    for x, y in nodes:
        disc(painter, x, y, 11, Qt.GlobalColor.white)


def clear(painter: QPainter, rectangle: QRectF, radius: float) -> None:
    """Make room for a sign: transparent, so that it is right on any background."""
    hole = QPainterPath()
    hole.addRoundedRect(rectangle, radius, radius)
    painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_Clear)
    painter.fillPath(hole, Qt.GlobalColor.black)
    painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_SourceOver)


ICONS = {
    "NeoNetExtension/Resources/Icons/NeoNetExtension.png": net,
    "Resources/NeoNetExtension.png": net,
    "NeoNetSeg/Resources/Icons/NeoNetSeg.png": outline,
    "NeoNetGen/Resources/Icons/NeoNetGen.png": patches,
    "NeoNetCls/Resources/Icons/NeoNetCls.png": gauge,
}


def draw(sign) -> QImage:
    image = QImage(SIZE, SIZE, QImage.Format.Format_ARGB32)
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    sign(painter)
    painter.end()
    return image


def main() -> None:
    application = QGuiApplication.instance() or QGuiApplication([])
    for name, sign in ICONS.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(sign).save(str(path))
    del application


if __name__ == "__main__":
    main()
