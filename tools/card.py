"Draw nbs/images/card.jpg, the picture that a link to the site unfolds to: `python tools/card.py`."
from matplotlib.figure import Figure
from PIL import Image

from pictures import NBS

def card(path=NBS/'images'/'card.jpg'):
    "1200 x 630 px: the name, what it does, and the picture of the front page."
    fig = Figure(figsize=(12, 6.3), dpi=100, facecolor='#1d4f86'); sets = Image.open(NBS/'images'/'sets.png').convert('RGB')
    text = lambda y, s, **kw: fig.text(.045, y, s, color='white', va='top', linespacing=1.35, **kw)
    text(.88, 'ogm', fontsize=64, weight='bold')
    text(.66, 'A folder of images goes in,\na few images a class come out\nthat train a network\nwith plain hard labels.', fontsize=20)
    text(.21, 'Orthogonal Gradient Matching,\nas pages to read and run', fontsize=15, alpha=.85)
    ax = fig.add_axes((.42, .06, .555, .88)); ax.imshow(sets, interpolation='lanczos'); ax.axis('off')
    fig.savefig(path, pil_kwargs=dict(quality=82))

if __name__ == '__main__': card()
