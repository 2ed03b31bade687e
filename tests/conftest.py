"What the tests share: where the pages and the modules are."
import os, sys
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('HF_HUB_OFFLINE', '1')     # a test that needs the network says so; none does

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT/'nbs', ROOT/'ogm'
PAGES = sorted(p for p in NBS.rglob('*.ipynb') if not any(x.startswith(('_', '.')) for x in p.relative_to(NBS).parts))
sys.path[:0] = [str(ROOT), str(ROOT/'tools')]
