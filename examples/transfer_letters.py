"""From digits to letters: a net that reads digits learns x, y and z by training one new layer.

    python examples/transfer_letters.py [--quick] [--data FOLDER]

A small convolutional net is trained on handwritten digits. Its last layer is taken away, a new one for three classes is
put in its place, and only that one is trained, on letters drawn with the fonts that matplotlib ships. What to look at:
"all but the new layer" is one rule, and it is kept exactly: what the digits taught is afterwards the same, bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import etude
from etude import FROZEN, cosine, everything
from pictures import arguments, digits

LETTERS = "xyz"
FAMILIES = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
STYLES = (*("", "-Bold", "-Oblique", "-BoldOblique", "-Italic", "-BoldItalic"), *("Bol", "Italic", "BolIta"))
UNSEEN = "DejaVuSerif-Italic"  # no letter of this font is trained on


def main(quick: bool = False, data: str | None = None) -> dict[str, float]:
    """The share of letters named rightly: in training, in validation, and of a font that was never seen."""
    pictures, shown = digits(data)
    size = pictures.shape[-1]
    torch.manual_seed(0)
    reader = digit_reader(size)
    print("1. learn digits")
    learnt = etude.train(
        reader,
        (pictures[:4000], shown[:4000]),
        loss="cross_entropy",
        learning_rate=3e-3,
        epochs=6 if quick else 12,
        batch_size=64,
        validation=0.2,
        metrics="accuracy",
        progress=True,
    )

    print("\n2. learn letters: take the last layer away, put a new one there, train only that")
    reader.names = nn.Linear(reader.names.in_features, len(LETTERS))
    kept = {name: array.clone() for name, array in reader.state_dict().items() if not name.startswith("names")}
    letters, which = drawn(size, 600, seed=1)
    fresh, fresh_which = drawn(size, 200, seed=2)
    result = etude.train(
        reader,
        (letters, which),
        loss="cross_entropy",
        learning_rate=cosine(1e-2, 0),
        learning_rate_multipliers={"names": 1, everything: FROZEN},
        epochs=15 if quick else 40,
        batch_size=32,
        validation=(fresh, fresh_which),
        metrics="accuracy",
        progress=True,
    )
    changed = [name for name, array in reader.state_dict().items() if not torch.equal(array, kept.get(name, array * 0))]
    print(f"\nchanged: {', '.join(changed)}")

    unseen, unseen_which = drawn(size, 60, seed=3, unseen=True)
    scores = {
        "digits": max(learnt.history["val.accuracy"].values),
        "training": accuracy(reader, letters, which),
        "validation": accuracy(reader, fresh, fresh_which),
        "an unseen font": accuracy(reader, unseen, unseen_which),
    }
    for name, score in scores.items():
        print(f"named rightly, {name}: {score:.1%}")
    print(f"\na letter of {UNSEEN}, which the net has never seen:\n{in_text(unseen[0])}")
    print(f"it says: {LETTERS[int(reader(unseen[:1]).argmax())]}; it is: {LETTERS[int(unseen_which[0])]}")
    print(result)
    return scores


class DigitReader(nn.Module):
    """Two convolutions, a wide layer, and names for what is seen."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.strokes = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU())
        self.shapes = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.meaning = nn.Sequential(nn.Flatten(), nn.Linear(64 * (size // 2) ** 2, 128), nn.ReLU())
        self.names = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.names(self.meaning(self.shapes(self.strokes(x))))


def digit_reader(size: int) -> DigitReader:
    """A net for pictures of `size` x `size` points."""
    return DigitReader(size)


# ----------------------------------------------------------------------------------------------- drawing letters


def fonts(unseen: bool) -> list[Path]:
    """The fonts of letters that matplotlib ships: all but one, or that one."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = sorted(folder / f"{family}{style}.ttf" for family in FAMILIES for style in STYLES)
    return [path for path in found if path.exists() and (path.stem == UNSEEN) == unseen]


def drawn(size: int, count: int, seed: int, unseen: bool = False) -> tuple[Tensor, Tensor]:
    """Letters in many fonts, sizes, places, small and capital: (count, 1, size, size), and which of the three each is.

    They are drawn four times as large and averaged over blocks of 4x4 points, as scikit-learn's digits were made.
    """
    chance, there = np.random.default_rng(seed), fonts(unseen)
    which = chance.integers(len(LETTERS), size=count)
    images = np.stack([_letter(LETTERS[letter], 4 * size, there, chance) for letter in which])
    blocks = images.reshape(count, 1, size, 4, size, 4).mean((3, 5))
    return torch.tensor(blocks, dtype=torch.float32), torch.tensor(which)


def _letter(letter: str, size: int, there: list[Path], chance: np.random.Generator) -> np.ndarray:
    """One letter, white on black, values 0 to 1; its height is most of the picture's, as a digit's is."""
    letter = letter.upper() if chance.random() < 0.3 else letter
    path = there[chance.integers(len(there))]
    left, top, right, bottom = ImageFont.truetype(path, size).getbbox(letter)
    scale = size * chance.uniform(0.6, 0.9) / max(bottom - top, right - left)
    font, shift = ImageFont.truetype(path, round(size * scale)), chance.uniform(-0.06, 0.06, 2) * size
    left, top, right, bottom = font.getbbox(letter)
    image = Image.new("L", (size, size))
    corner = ((size - left - right) / 2 + shift[0], (size - top - bottom) / 2 + shift[1])
    ImageDraw.Draw(image).text(corner, letter, 255, font)
    return np.asarray(image, dtype=np.float32) / 255


# ---------------------------------------------------------------------------------------------------- looking at it


def accuracy(net: nn.Module, pictures: Tensor, which: Tensor) -> float:
    """The share that is named rightly."""
    with torch.no_grad():
        return (net(pictures).argmax(1) == which).float().mean().item()


def in_text(picture: Tensor) -> str:
    """A picture as lines of text, two characters a point."""
    shades = " .:+#@"
    return "\n".join("".join(shades[round(float(v) * 5)] * 2 for v in row).rstrip() for row in picture[0])


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.data)
