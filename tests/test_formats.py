"Every format there and back, on random data sets with their dirt"
import json
import numpy as np, pytest
from PIL import Image
from ssd_fastai.all import *

@pytest.fixture
def ann(tmp_path):
    "Random photos in two folders, a third of them empty, with flags and class names that need escaping"
    rng,recs = np.random.default_rng(0),[]
    vocab = ['cat & dog','Großer <Bär>','x, "y"']
    for i in range(30):
        w,h = (int(v) for v in rng.integers(30,700,2))
        f = tmp_path/'photos'/('ab'[i%2])/f'p{i} é.jpg'
        f.parent.mkdir(parents=True,exist_ok=True)
        Image.new('RGB',(w,h)).save(f)
        n = 0 if i%3==0 else int(rng.integers(1,9))
        lo = rng.uniform(0,.8,(n,2))
        hi = np.minimum(lo+rng.uniform(.05,.4,(n,2)),1)
        recs.append(
            Record(
                f,
                (w, h),
                np.concatenate([lo, hi], 1) * [w, h, w, h],
                [vocab[k] for k in rng.integers(0, 3, n)],
                rng.random(n) < 0.3,
                rng.random(n) < 0.2,
            )
        )
    return Annotations(recs, vocab)

def there_and_back(ann, fmt, d):
    if fmt=='coco': return read_coco(ann.to_coco(d/'a.json'), ann.folder()),{'crowd'}
    if fmt=='csv': return read_csv(ann.to_csv(d/'a.csv'), ann.folder(), vocab=ann.vocab),{'crowd','difficult'}
    if fmt=='yolo': return read_yolo(ann.to_yolo(d/'yolo','train')),set()
    flat = d/'flat'
    flat.mkdir()
    for r in ann: (flat/r.path.name).write_bytes(r.path.read_bytes())
    return read_voc(flat, ann.to_voc(d/'xml'), vocab=ann.vocab),{'difficult'}

@pytest.mark.parametrize('fmt', ['coco','csv','yolo','voc'])
def test_round_trip(ann, fmt, tmp_path):
    back,flags = there_and_back(ann, fmt, tmp_path)
    assert back.vocab==ann.vocab and not back.problems
    want = {r.path.name:r for r in ann}
    assert {r.path.name for r in back}==set(want)
    for r in back:
        w = want[r.path.name]
        assert r.labels==w.labels and r.size==w.size and np.abs(r.boxes-w.boxes).max(initial=0)<.5
        for f in flags: assert (getattr(r,f)==getattr(w,f)).all()

def test_yolo_layouts(ann, tmp_path):
    "As Ultralytics, Roboflow and the old tools write them"
    root = ann.to_yolo(tmp_path/'y','train')
    ann[:5].to_yolo(root,'valid')
    n = {r.path.name:len(r.labels) for r in ann}
    assert len(read_yolo(root,'valid'))==5
    for cfg in (dict(path=str(root),train='images/train',names=ann.vocab),
                dict(train='../images/train',names=dict(enumerate(ann.vocab))),
                dict(train=['images/train'],names=ann.vocab), dict(names=ann.vocab)):
        import yaml
        (root/'data.yaml').write_text(yaml.safe_dump(cfg))
        a = read_yolo(root)
        assert {r.path.name:len(r.labels) for r in a}==n
    with pytest.raises(FileNotFoundError, match="for 'test'"): read_yolo(root,'test')

@pytest.mark.parametrize('line,say',
                         [('0 .5 .5 .1','has 3 numbers'), ('9 .5 .5 .1 .1','class 9'), ('0.5 .5 .5 .1 .1','class 0.5'),
                          ('cat .5 .5 .1 .1','not a class number'), ('0 .1 .1 .2 .2 .3','has 5 numbers')])
def test_yolo_bad_lines(ann, tmp_path, line, say):
    root = ann.to_yolo(tmp_path/'y')
    t = next((root/'labels/train').glob('p1 *.txt'))
    t.write_text('0 .5 .5 .2 .2\n'+line+'\n')
    with pytest.raises(ValueError, match=say) as e: read_yolo(root)
    assert 'line 2' in str(e.value) and t.name in str(e.value)

def test_yolo_polygon_and_outside(ann, tmp_path):
    root = ann.to_yolo(tmp_path/'y')
    t = next((root/'labels/train').glob('p0 *.txt'))
    t.write_text('1 .1 .2 .3 .1 .2 .6\n0 .95 .5 .3 .2\n')
    with pytest.warns(BoxWarning, match='clipped'): a = read_yolo(root)
    r = next(r for r in a if r.path.stem==t.stem)
    w,h = r.size
    assert np.allclose(r.boxes, [[.1*w,.1*h,.3*w,.6*h],[.8*w,.4*h,w,.6*h]], atol=.01)

def test_names_that_clash(ann, tmp_path):
    r = ann[1]
    Image.new('RGB',r.size).save(tmp_path/(r.path.stem+'.png'))
    two = Annotations([r,Record(tmp_path/(r.path.stem+'.png'),r.size,[],[])],ann.vocab)
    for f in (two.to_voc,two.to_yolo):
        with pytest.raises(ValueError, match='share their name'): f(tmp_path/'o')
    assert len(read_coco(two.to_coco(tmp_path/'o.json'),two.folder()))==2

def test_nothing_outside_the_folder(tmp_path):
    "A hostile label file reads nothing beyond the image folder"
    secret = tmp_path/'secret.jpg'
    Image.new('RGB',(64,48)).save(secret)
    imgs = tmp_path/'imgs'
    imgs.mkdir()
    for name in ('../secret.jpg', str(secret), 'a/../../secret.jpg'):
        (tmp_path / 'c.json').write_text(
            json.dumps(dict(images=[dict(id=1, file_name=name)], categories=[], annotations=[]))
        )
        with pytest.raises(ValueError, match='not inside'): read_coco(tmp_path/'c.json', imgs)
        with pytest.raises(ValueError, match='not inside'):
            read_csv(pd.DataFrame(dict(path=[name],label=['a'],x0=1,y0=1,x1=9,y1=9)), imgs)
        (imgs / 'v.xml').write_text(
            f'<annotation><filename>{name}</filename><size><width>64</width><height>48</height></size></annotation>'
        )
        with pytest.raises(ValueError, match='not inside'): read_voc(imgs, imgs)

def test_entity_bomb(tmp_path):
    (tmp_path/'b.xml').write_text('<!DOCTYPE lolz [<!ENTITY lol "lol">]><annotation>&lol;</annotation>')
    with pytest.raises(ValueError, match='entities'): read_voc(tmp_path, tmp_path)

def test_add_rename_subset(train, valid):
    both = train+valid
    n = len(both)
    m = both.rename({'WBC':'RBC'})
    assert m.vocab==['RBC','Platelets'] and len(m)==n and m.stats()['objects'].sum()==both.stats()['objects'].sum()
    assert set(both.rename({'RBC':None}).vocab)=={'WBC','Platelets'} and len(both.subset([0,5]))==2

def test_crowds_are_not_trained_on(valid):
    r = valid[0]
    c = Record(r.path,r.size,r.boxes,r.labels,crowd=[True]+[False]*(len(r.labels)-1))
    dls = BBoxDataLoaders.from_annotations(Annotations([c]*4,valid.vocab), valid, size=64, bs=4,
                                           item_tfms=[BoxResize(64)])
    assert (dls.one_batch()[2]>0).sum()==4*(len(r.labels)-1)
