"Suspect labels, learning curves, and the page for somebody who opens no notebook"
import base64, io, re
import numpy as np, pytest
from html.parser import HTMLParser
from PIL import Image
from ssd_fastai.all import *
from ssd_fastai.use.labels import Trust, _folds, _suspects_on, label_suspects, suspect_annotations
from ssd_fastai.use.mistakes import Mistakes, PhotoResult, find_mistakes

@pytest.fixture(scope='module')
def dls(train, valid): return BBoxDataLoaders.from_annotations(train[:24], valid[:8], size=(64,96), bs=8)

@pytest.fixture(scope='module')
def learn(dls):
    set_seed(3, reproducible=True)
    l = ssd_learner(dls, 'resnet10t', pretrained=False, metrics=coco_metrics())
    with l.no_logging(): l.fine_tune(4)
    return l

def photo(gt, labels, det=(), said=(), scores=(), path='a.jpg', ignored=None):
    ignored = np.zeros(len(labels),bool) if ignored is None else np.array(ignored)
    return PhotoResult(Path(path), np.array(gt,float).reshape(-1,4), np.array(labels,int), ignored,
                       np.array(det,float).reshape(-1,4), np.array(scores,float), np.array(said,int))

def test_each_planted_doubt_is_named():
    "Many sound photos, and one with each kind of error"
    box,far = [10,10,50,50],[200,200,240,240]
    sound = [photo([box,far],[0,1],[box,far],[0,1],[.95,.9]) for _ in range(20)]
    odd = {'class':photo([box],[1],[box],[0],[.95]), 'box':photo([[30,26,70,66]],[0],[box],[0],[.95]),
           'missing':photo([far],[1],[box,far],[0,1],[.95,.9]), 'spurious':photo([box,far],[0,1],[far],[1],[.9])}
    trust = Trust([*sound,*odd.values()], 2)
    for p in sound: assert max(r[3] for r in _suspects_on(p,['a','b'],trust))<.15
    for kind,p in odd.items():
        top = max(_suspects_on(p,['a','b'],trust), key=lambda r:r[3])
        assert top[0]==kind and top[3]>.6
    assert not _suspects_on(photo([box],[0],ignored=[True]), ['a','b'], trust)

def test_a_photo_on_which_nothing_is_found():
    "Its labels are doubted, by the detector's recall"
    box = [10,10,50,50]
    trust = Trust([photo([box],[0],[box],[0],[.95]) for _ in range(20)], 1)
    (kind,name,says,s,where), = _suspects_on(photo([box],[0]), ['a'], trust)
    assert (kind,name,says)==('spurious','a','nothing') and s>.8 and where.tolist()==box

def test_trust_is_recall_and_precision():
    box,far = [0,0,10,10],[50,50,60,60]
    ps = [photo([box],[0],[box,far],[0,0],[.8,.4]), photo([box],[0])]
    t = Trust(ps, 2)
    assert t.finds(0,np.array(box,float))==pytest.approx(.4) and t.finds(1,np.array(box,float))==0
    assert (t.right_at(0,.8),t.right_at(0,.4),t.right_at(0,.9),t.right_at(1,.1))==(1.,.5,0.,0.)

def test_trust_knows_sizes():
    "Small objects of a class are missed, large ones are found"
    small,large = [0,0,5,5],[0,0,50,50]
    ps = [photo([small,large],[0,0],[large],[0],[.9]) for _ in range(40)]
    t = Trust(ps, 1)
    assert t.finds(0,np.array(small,float))==0 and t.finds(0,np.array(large,float))==pytest.approx(.9)

def test_copies_stay_in_one_fold(train, tmp_path):
    import shutil
    rs = list(train[:6])
    for i,r in enumerate(train[:6]):
        shutil.copy(r.path, tmp_path/f'{i}.jpg')
        rs.append(Record(tmp_path/f'{i}.jpg', r.size, r.boxes, r.labels))
    parts = _folds(Annotations(rs,train.vocab), 3, 0)
    assert sorted(sum(parts,[]))==list(range(12)) and max(map(len,parts))-min(map(len,parts))<=2
    assert all((i in p)==(i+6 in p) for p in parts for i in range(6))

def test_label_suspects_end_to_end(train, learn):
    ann = train[:16]
    t = label_suspects(ann, folds=2, learn=learn, epochs=1)
    assert t.suspicion.is_monotonic_decreasing and set(t.photo)<=set(range(16)) and t.suspicion.between(0,1).all()
    assert {ann[i].path.name for i in t.photo}==set(t.file)
    a = suspect_annotations(t.head(9), ann)
    assert sum(len(r.labels) for r in a)==9 and all(': ' in l for l in a.vocab)
    with pytest.raises(ValueError, match='folds=1'): label_suspects(ann, folds=1)

def test_again_is_the_same_recipe(train, valid, learn):
    a,b = (learn.again(train[:8], valid[:4], epochs=1, seed=5) for _ in range(2))
    assert all(torch.equal(p,q) for p,q in zip(a.model.parameters(),b.model.parameters()))
    assert len(a.dls.records[0])==8 and a.dls.vocab==learn.dls.vocab and len(learn.dls.records[0])==24
    learn.export('x.pkl')
    l = load_learner(learn.path/'x.pkl')
    (learn.path/'x.pkl').unlink()
    with pytest.raises(ValueError, match='ssd_learner made'): l.again(train[:8], valid[:4])

def test_with_photos_augments_only_the_training(train, valid, dls):
    new = dls.with_photos(train[:8], valid[:4])
    new.train.shuffle = False
    a,b = (new.train.one_batch()[0] for _ in range(2))
    assert not torch.equal(a,b) and torch.equal(new.valid.one_batch()[0], new.valid.one_batch()[0])
    with pytest.raises(ValueError, match='does not have'):
        r = train[0]
        dls.with_photos(train[:8], Annotations([Record(r.path,r.size,r.boxes[:1],['moon'])],[*train.vocab,'moon']))

def test_learning_curve(learn):
    c = learn.learning_curve(epochs=1, fractions=(.5,1.), seeds=2, plot=False)
    assert c.photos.tolist()==[12,12,24,24] and c.seed.tolist()==[0,1,0,1] and c.AP50.between(0,1).all()

def test_hard_negatives(train, learn):
    empty = [r.path for r in train if not r.labels][:2]
    assert [r.path for r in learn.hard_negatives(empty, min_score=0.)]==empty
    assert len(learn.hard_negatives(empty, min_score=1.))==0

class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open,self.images,self.links,self.text,self.bad = [],[],[],[],[]
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        if tag=='img': self.images.append(dict(attrs)['src'])
        self.links += [v for k,v in attrs if k in ('src','href') and not v.startswith('data:')]
        if tag not in ('img','meta'): self.open.append(tag)
    def handle_endtag(self, tag):
        if not self.open or self.open.pop()!=tag: self.bad.append(tag)
    def handle_data(self, d): self.text.append(d)

def test_the_report_is_one_sound_file(learn, tmp_path):
    mis = find_mistakes(learn, min_score=.05)
    page = Page(mis.report(tmp_path/'r.html', title='<script>alert(1)</script> & more', n=3).read_text(encoding='utf8'))
    assert not page.links and not page.bad and not page.open and 'script' not in page.open
    for src in page.images: assert Image.open(io.BytesIO(base64.b64decode(src.split(',')[1]))).size[0]>100
    text = ' '.join(page.text)
    assert '<script>alert(1)</script> & more' in text and len(page.images)>=4
    i = mis.interval()
    assert f'{100*i.value["AP50"]:.0f} %' in text and f'{100*i.low["AP50"]:.0f} to {100*i.high["AP50"]:.0f} %' in text
    for v in mis.vocab: assert re.search(rf'{v}: \d+ of \d+ were found', text)

def test_a_report_on_nothing_found(learn, tmp_path):
    photos = [replace_boxes(p) for p in find_mistakes(learn).photos]
    mis = Mistakes(photos, learn.dls.vocab)
    text = mis.report(tmp_path/'r.html').read_text(encoding='utf8')
    assert '(0 %)' in text and 'It missed an object' in text

def replace_boxes(p):
    return PhotoResult(p.path, p.gt_boxes, p.gt_labels, p.ignored, np.zeros((0,4)), np.zeros(0), np.zeros(0,int))
