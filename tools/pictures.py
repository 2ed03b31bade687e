"""Pictures in the saved outputs of the notebooks as PNG with a palette, about a third of the bytes: `python tools/pictures.py [NOTEBOOK ...]`.

A picture is only rewritten when nobody can tell: plots and grids keep their look with a few colours, a photograph may not and stays as it is."""
import base64, io, json, sys
from pathlib import Path

import numpy as np
from PIL import Image

NBS = Path(__file__).resolve().parent.parent/'nbs'
ERROR = 0.5 # mean difference that is allowed, in grey levels of 256

def palette(data):
    "PNG bytes with the smallest palette that stays within `ERROR`; else the same picture, packed tighter. What has a palette already is left alone."
    im = Image.open(io.BytesIO(data))
    if im.mode == 'P' or im.mode == 'RGBA' and im.getextrema()[3][0] < 255: return data
    im = im.convert('RGB'); x = np.asarray(im, np.int16)
    tries = (im.quantize(n, dither=Image.Dither.NONE) for n in (32, 64, 128, 256))
    best = next((t for t in tries if np.abs(np.asarray(t.convert('RGB'), np.int16) - x).mean() <= ERROR), im)
    out = io.BytesIO(); best.save(out, 'PNG', optimize=True)
    return min(out.getvalue(), data, key=len)

def shrink(path):
    "Rewrite the pictures of one notebook; returns how many bytes that saved."
    text = Path(path).read_text(encoding='utf-8'); before = len(text)
    for cell in json.loads(text)['cells']:
        for o in cell.get('outputs', []):
            if not (old := ''.join(o.get('data', {}).get('image/png', ''))): continue
            new = base64.b64encode(palette(base64.b64decode(old))).decode()
            text = text.replace(json.dumps(old)[1:-1], new + '\\n'*old.endswith('\n'))
    if len(text) < before: Path(path).write_text(text, encoding='utf-8')
    return before - len(text)

if __name__ == '__main__':
    saved = {p: shrink(p) for p in map(Path, sys.argv[1:] or sorted(NBS.glob('*.ipynb')))}
    for p, n in saved.items():
        if n: print(f'{p.name}: {n//1000} kB less')
