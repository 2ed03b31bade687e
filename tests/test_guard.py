"The guard against a wrong class order, on folders as people have them: four colours, and a teacher that knows them by sight."
import warnings
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from ogm.core import OgmError
from ogm.data import open_source
from ogm.models import Teacher, load_teacher
from ogm.rded import rded
from ogm.synthesis import distill
from ogm.training import accuracy

COLOURS = dict(red=(220, 30, 30), green=(30, 220, 30), blue=(30, 30, 220), white=(220, 220, 220))
IDS = dict(red='n00000004', green='n00000003', blue='n00000001', white='n00000002')      # another order than the alphabet's

def folder(root, name=lambda c: c, n=5):
    "A folder a colour, called `name(colour)`; each picture is a little different."
    for c, rgb in COLOURS.items():
        d = root/name(c); d.mkdir(parents=True)
        for i in range(n): Image.fromarray((np.full((8, 8, 3), rgb) + np.random.default_rng(i).integers(-20, 20, (8, 8, 3))).astype(np.uint8)).save(d/f'{i}.png')
    return root

class Nearest(nn.Module):
    "The nearest of some colours: right for every picture."
    def __init__(self, colours): super().__init__(); self.conv = nn.Conv2d(3, 3, 1); self.conv.weight.data = torch.eye(3)[..., None, None]; self.conv.bias.data.zero_(); self.register_buffer('at', torch.tensor(colours)/255)
    def forward(self, x): return -10*((self.conv(x).mean((2, 3))[:, None] - self.at)**2).sum(-1)

def teacher(order=('red', 'green', 'blue', 'white'), classes=None, ids=None):
    return Teacher(Nearest([COLOURS[c] for c in order]), 'nearest', 8, (0.,)*3, (1.,)*3, classes or list(order), ids, 1.)

def right(t, source): return accuracy(t, source.train, mean=t.mean, std=t.std, size=8) == 1.

def quietly(f, *args):
    with warnings.catch_warnings(): warnings.simplefilter('error'); return f(*args)

def test_shuffled_image_folder(tmp_path):
    "The alphabet orders folders otherwise than the teacher its classes: matched by name, not by place."
    s = open_source(folder(tmp_path/'x'), size=8); assert s.classes == ['blue', 'green', 'red', 'white'] != teacher().classes
    assert not right(teacher(), s) and right(quietly(teacher().aligned, s), s)
    for c in s.classes: assert s.train.classes[int(s.train.labels[s.train.indices(s.classes.index(c))[0]])] == c
    ds = rded(s, teacher(), 2, 1, device='cpu'); seen = ds.images.float().mean((2, 3))
    assert all(seen[i].sub(torch.tensor(COLOURS[ds.classes[l]])).abs().max() < 40 for i, l in enumerate(ds.labels.tolist()))
    out = distill(s, teacher(), ds, iters=1, gamma=0., device='cpu'); assert out.classes == s.classes

def test_a_part_of_the_teachers_classes(tmp_path):
    "Fewer folders than the teacher has classes: the other columns are left out."
    folder(tmp_path/'x'); [f.unlink() for f in (tmp_path/'x'/'green').iterdir()]; (tmp_path/'x'/'green').rmdir()
    s = open_source(tmp_path/'x', size=8); t = quietly(teacher().aligned, s); assert t.n_classes == 3 and right(t, s)

def test_numeric_folders_in_the_order_of_texts(tmp_path):
    "Eleven folders 0 to 10 are sorted 0, 1, 10, 2: a teacher with the same names is matched by them."
    x = [(20*i, 255 - 20*i, 40) for i in range(11)]
    for i, rgb in enumerate(x):
        (tmp_path/str(i)).mkdir()
        for k in range(2): Image.new('RGB', (8, 8), rgb).save(tmp_path/str(i)/f'{k}.png')
    s = open_source(tmp_path, size=8); assert s.classes[:3] == ['0', '1', '10']
    t = Teacher(Nearest(x), 'nearest', 8, (0.,)*3, (1.,)*3, [str(i) for i in range(11)], None, 1.); assert not right(t, s) and right(quietly(t.aligned, s), s)
    named = Teacher(Nearest(x), 'nearest', 8, (0.,)*3, (1.,)*3, [f'colour {i}' for i in range(11)], None, 1.)
    with pytest.raises(OgmError, match=r"does not know \['0', '1', '10'\].*the source has not \['colour 0'"): named.aligned(s)

def test_numeric_folders_by_place_are_tried_on_images(tmp_path):
    "Numbers against names can only be matched by place: nothing is said when it fits, and a warning when it does not."
    order = ('red', 'green', 'blue', 'white'); s = open_source(folder(tmp_path/'x', lambda c: str(order.index(c))), size=8)
    assert s.classes == list('0123') and right(quietly(teacher(order).aligned, s), s)
    with pytest.warns(UserWarning, match='same order'): assert not right(teacher(order[::-1]).aligned(s), s)

def test_wordnet_ids(tmp_path):
    "Ids decide, whatever the names say; an id that one side lacks is an error that names both."
    for k, name in enumerate((lambda c: IDS[c], lambda c: f'{IDS[c]}_{c}', lambda c: f'{IDS[c]}_{"red" if c == "blue" else "x" + c}')):
        s = open_source(folder(tmp_path/str(k), name), size=8); assert s.ids == sorted(IDS.values())
        t = teacher(ids=[IDS[c] for c in COLOURS]); assert not right(t, s) and right(quietly(t.aligned, s), s)
    foreign = teacher(ids=['n00000004', 'n00000003', 'n00000001', 'n09999999'])
    with pytest.raises(OgmError, match=r"\['n00000002'\].*\['n09999999'\]") as e: foreign.aligned(s)
    assert '\n' not in str(e.value)

def test_a_teacher_without_ids(tmp_path):
    "WordNet folders with names are matched by these; without names the guard refuses, and says what is missing; ids in a file help."
    s = open_source(folder(tmp_path/'named', lambda c: f'{IDS[c]}_{c}'), size=8); assert right(quietly(teacher().aligned, s), s)
    bare = open_source(folder(tmp_path/'bare', lambda c: IDS[c]), size=8)
    with pytest.raises(OgmError, match=r"does not know \['n00000001'.*the source has not \['red'"): teacher().aligned(bare)
    numbered = teacher(classes=list('0123'))
    with pytest.warns(UserWarning, match='same order'): assert not right(numbered.aligned(bare), bare)

def test_a_wrong_order_that_names_itself_right_is_caught_by_trying(tmp_path):
    "Names agree, contents do not: without ids the teacher is tried on images."
    s = open_source(folder(tmp_path/'x'), size=8); liar = teacher(('white', 'blue', 'green', 'red'), classes=list(COLOURS))
    with pytest.warns(UserWarning, match='are its classes in the same order'): load_teacher(liar, s)
