"""What an image with two mosaics looks like, beside the cells in it: `python tools/packed.py RUN/work/ogm-plus-.../set --out nbs/images/packed.png`."""
import argparse

import torch
from PIL import Image

from ogm.core import whole
from ogm.distilled import DistilledSet, unfold
from ogm.patches import resize
from ogm.plots import grid

def row(ds, i): # uint8 (3, H, W): image `i`, enlarged, and its cells, eight in a line
    one = DistilledSet(ds.images[i:i + 1], ds.labels[i:i + 1], ds.classes, factor=ds.factor, chroma=ds.chroma)
    cells = grid(resize(unfold(one).images.float(), 30).round().clamp(0, 255).byte(), ncol=8, gap=2)
    k = max(1, round(cells.shape[1]/ds.size)); stored = ds.images[i].repeat_interleave(k, 1).repeat_interleave(k, 2); height = max(stored.shape[1], cells.shape[1])
    stored, cells = (torch.nn.functional.pad(x, (0, right, 0, height - x.shape[1]), value=255) for x, right in ((stored, 12), (cells, 0)))
    return torch.cat([stored, cells], 2)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('set'); p.add_argument('--classes', default='1,7,8'); p.add_argument('--out', required=True); a = p.parse_args()
    ds = DistilledSet.load(a.set); rows = [row(ds, (ds.labels == int(c)).nonzero()[0].item()) for c in a.classes.split(',')]
    im = torch.cat([torch.nn.functional.pad(r, (0, 0, 0, 8), value=255) for r in rows], 1)[:, :-8]
    with whole(a.out) as tmp: Image.fromarray(im.permute(1, 2, 0).numpy()).quantize(128, dither=Image.Dither.NONE).save(tmp, format='PNG', optimize=True)

if __name__ == '__main__': main()
