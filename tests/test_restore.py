"What a file says about its weights is compared with the learner that reads it; nothing in a file is run"
from dataclasses import replace
import json, pickle, struct, subprocess, sys, zipfile
import numpy as np, pytest, torch
from ssd_fastai.all import *
from ssd_fastai.published.layers import read_weights
from ssd_fastai.ssd.weights import parse_note, read_detector

SIZE = (64,96)

def loaders(train, valid, vocab=None, size=SIZE, path='.', **kwargs):
    ann = Annotations(train.records, vocab or train.vocab)
    return BBoxDataLoaders.from_annotations(ann, valid, size=size, bs=4, path=path, num_workers=0, **kwargs)

def learner(dls, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        kwargs = dict(pretrained=False, strides=(4,8,16), precision='fp32', metrics=coco_metrics()) | kwargs
        l = ssd_learner(dls, 'resnet10t', **kwargs)
    l.remove_cb(ProgressCallback)
    return l

@pytest.fixture(scope='module')
def few(train, valid): return train[:16],valid[:8]

@pytest.fixture
def dls(few, tmp_path): return loaders(*few, path=tmp_path)

@pytest.fixture
def trained(dls):
    set_seed(0, reproducible=True)
    l = learner(dls)
    with l.no_logging(): l.fit(2, 2e-3)
    return l

def one_set(l):
    "Do model, loss and `default_boxes` agree?"
    return torch.equal(l.model.boxes,l.loss_func.default) and torch.equal(l.model.boxes,l.default_boxes.boxes)

def found(l, photo):
    d = l.predict(photo, min_score=.01)
    return d.names,d.boxes

def same_answer(a, b, photo):
    (na,ba),(nb,bb) = found(a,photo),found(b,photo)
    return na==nb and torch.allclose(ba,bb,atol=1e-2) and len(na)>0

# Save, add photos, load, train on

def test_model_and_loss_share_their_boxes_from_the_start(dls):
    l = learner(dls)
    assert one_set(l) and l.default_boxes is l.model.default_boxes

def test_train_on_as_if_nothing_had_been(train, valid, tmp_path):
    "Two epochs, more photos, two epochs: with a new learner and a file between, and without"
    def go_on(l):
        set_seed(7, reproducible=True)
        l.dls = loaders(train[:48], valid[:16], path=tmp_path)
        with l.no_logging(): l.fit(2, 2e-3)
        return l.validate()
    set_seed(3, reproducible=True)
    l = learner(loaders(train[:32], valid[:16], path=tmp_path))
    with l.no_logging(): l.fit(2, 2e-3)
    l.save('half')
    boxes = l.default_boxes.boxes.clone()
    fresh = learner(loaders(train[:48], valid[:16], path=tmp_path))
    assert not torch.equal(fresh.model.boxes, boxes)
    fresh.load('half')
    assert one_set(fresh) and torch.equal(fresh.model.boxes, boxes)
    a,b = go_on(l),go_on(fresh)
    assert one_set(fresh) and torch.equal(fresh.default_boxes.boxes, l.default_boxes.boxes)
    assert a[2]>0 and abs(a[1]-b[1])<.005 and abs(a[2]-b[2])<.005 and abs(a[0]-b[0])<1e-3

def test_boxes_of_the_file_come_with_their_shapes(trained, train, valid, tmp_path):
    trained.save('a')
    l = learner(loaders(train[20:60], valid[:8], path=tmp_path))
    l.load('a')
    for a,b in zip(l.default_boxes.shapes,trained.default_boxes.shapes): assert torch.allclose(a,b)
    assert l.default_boxes.grids==trained.default_boxes.grids

def test_weights_put_into_the_model_by_hand(trained, train, valid, tmp_path):
    l = learner(loaders(train[20:60], valid[:8], path=tmp_path))
    l.model.load_state_dict(trained.model.state_dict())
    assert not torch.equal(l.model.boxes, l.loss_func.default)
    with pytest.warns(UserWarning, match='now uses those of the model'), l.no_logging(): l.fit(1, 0.)
    assert one_set(l)

def test_padded_loss_follows(trained, train, valid, tmp_path):
    trained.save('a')
    l = learner(loaders(train[20:60], valid[:8], path=tmp_path))
    l.loss_func = PaddedSSDLoss(l.model.boxes)
    l.load('a', with_opt=False)
    xb,*yb = l.dls.valid.one_batch()
    preds = l.model.eval()(xb)
    assert one_set(l) and torch.allclose(l.loss_func(preds,*yb), trained.loss_func(preds,*yb), atol=1e-4)

# By name

def test_the_file_of_another_order_of_classes(trained, few, tmp_path):
    photo,order = few[1][0].path,[2,0,1]
    vocab = [trained.dls.vocab[i] for i in order]
    trained.save('a')
    trained.save_weights('a.safetensors')
    l = learner(loaders(*few, vocab=vocab, path=tmp_path))
    l.load('a')
    assert l.dls.vocab==vocab and same_answer(trained, l, photo)
    for k in (0,1): # what the optimizer remembers has moved as well
        p,q = trained.model.head.classes[k].weight,l.model.head.classes[k].weight
        a,b = trained.opt.opt.state[p]['exp_avg'],l.opt.opt.state[q]['exp_avg']
        cols = [0,*(o+1 for o in order)]
        assert a.abs().sum()>0 and torch.equal(a.view(-1,4,*a.shape[1:])[:,cols].reshape_as(b), b)
    l = learner(loaders(*few, vocab=vocab, path=tmp_path))
    assert same_answer(trained, l.load_weights('a.safetensors'), photo)

def test_learner_dls_in_another_order(few, tmp_path):
    vocab = few[0].vocab
    l = learner(loaders(*few, path=tmp_path), class_weight={vocab[0]:2.,vocab[1]:3.,vocab[2]:5.})
    with l.no_logging(): l.fit(1, 2e-3)
    before = found(l, few[1][0].path),l.validate()
    l.dls = loaders(*few, vocab=vocab[::-1], path=tmp_path)
    after = found(l, few[1][0].path),l.validate()
    assert before[0][0]==after[0][0] and np.allclose(before[1],after[1],atol=1e-4)
    assert l.loss_func.weight.tolist()==[1.,5.,3.,2.]

def test_no_background_column(few, tmp_path):
    l = learner(loaders(*few, path=tmp_path), kind='focal')
    with l.no_logging(): l.fit(1, 2e-3)
    before = found(l, few[1][0].path)[0]
    l.dls = loaders(*few, vocab=few[0].vocab[::-1], path=tmp_path)
    assert found(l, few[1][0].path)[0]==before

@pytest.mark.parametrize(
    'change,says',
    [
        (dict(vocab=['RBC', 'WBC', 'Platelets', 'new']), 'for the classes'),
        (dict(size=128), r'size=\(64, 96\)'),
        (dict(stats=([0.5] * 3, [0.5] * 3)), 'normalized'),
        (dict(stats=None), 'normalized'),
    ],
    ids='classes size stats none'.split(),
)
def test_what_cannot_fit_is_refused(trained, few, tmp_path, change, says):
    trained.save('a')
    trained.save_weights('a.safetensors')
    new = loaders(*few, path=tmp_path, **change)
    before = {k:v.clone() for k,v in trained.model.state_dict().items()}
    with pytest.raises(ValueError, match=says): trained.dls = new
    assert trained.dls is not new and all(torch.equal(v,before[k]) for k,v in trained.model.state_dict().items())
    other = learner(new)
    for load in (lambda: other.load('a'), lambda: other.load_weights('a.safetensors')):
        with pytest.raises(ValueError, match=says): load()

def test_another_model_is_refused(trained, few, tmp_path):
    trained.save('a')
    for kwargs,says in ((dict(k=3),'same arch, strides, k'), (dict(strides=(8,16,32)),'same arch'),
                        (dict(kind='bce'),'kind of loss')):
        l = learner(loaders(*few, path=tmp_path), **kwargs)
        with pytest.raises(ValueError, match=says): l.load('a')
        assert one_set(l)

def test_loaders_of_fastai(trained, few):
    "A learner is made of them, and validates on them as on its own; in the place of its own they are refused by name"
    boxes = {r.path:r for r in few[1]}
    block = DataBlock(
        blocks=(ImageBlock, BBoxBlock, BBoxLblBlock(few[0].vocab)),
        get_items=lambda _: list(boxes),
        n_inp=1,
        splitter=IndexSplitter(range(1,len(boxes))),
        get_y=[lambda p: boxes[p].boxes.tolist(), lambda p: boxes[p].labels],
        item_tfms=Resize(64, method='squish'),
    )
    other = block.dataloaders(few[0][0].path.parent, bs=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert isinstance(ssd_learner(other, resnet18, pretrained=False).dls, BBoxDataLoaders)
        want = trained.ap_per_class(trained.dls.test_dl(list(few[1])[1:], with_labels=True))
        assert trained.ap_per_class(other.valid).equals(want) and len(trained.validate(dl=other.valid))>0
    with pytest.raises(TypeError, match='from_annotations'): trained.dls = other

# Another loader to validate on

def test_another_loader_is_read_by_name(trained, few, tmp_path):
    ap,val = trained.ap_per_class(),trained.validate()
    other = loaders(*few, vocab=few[0].vocab[::-1], size=96, stats=None, path=tmp_path)
    with pytest.warns(UserWarning, match='in classes and size and normalization'):
        again = trained.ap_per_class(other.valid)
    assert again.index.tolist()==ap.index.tolist() and np.allclose(again.AP,ap.AP)
    with pytest.warns(UserWarning, match='loaded again'):
        assert np.allclose(trained.validate(dl=other.valid), val, atol=1e-4)
    with pytest.warns(UserWarning, match='loaded again'): scores = trained.get_preds(dl=other.valid)[0][0]
    assert torch.allclose(scores, trained.get_preds()[0][0], atol=1e-4)

def test_a_loader_with_an_unknown_class(trained, few, tmp_path):
    other = loaders(*few, vocab=[*few[0].vocab,'mite'], path=tmp_path)
    with pytest.raises(ValueError, match='does not know mite'): trained.ap_per_class(other.valid)

def test_annotations_are_photos_to_measure_on(trained, few):
    valid = few[1]
    assert trained.ap_per_class(valid).equals(trained.ap_per_class())
    assert np.allclose(trained.validate(dl=valid), trained.validate(), atol=1e-4)
    for measure in (trained.ap_per_class, lambda dl: trained.validate(dl=dl)):
        with pytest.raises(ValueError, match='without labels'): measure(trained.dls.test_dl([r.path for r in valid]))
        with pytest.raises(ValueError, match='Pass Annotations or a DataLoader'): measure(list(valid))

def test_the_same_loader_says_nothing(trained):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.allclose(trained.ap_per_class(trained.dls.valid).AP, trained.ap_per_class().AP)

# A learner from a file

@pytest.fixture
def exported(trained):
    trained.export('a.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return load_learner(trained.path/'a.pkl')

def test_exported_learner_has_no_photos(exported, trained, few):
    calls = dict(
        fit=lambda l: l.fit(1),
        fine_tune=lambda l: l.fine_tune(1),
        lr=lambda l: l.lr_inflections(show=False),
        lr_find=lambda l: l.lr_find(),
        validate=lambda l: l.validate(),
        ap=lambda l: l.ap_per_class(),
        show=lambda l: l.show_results(),
        mined=lambda l: l.show_mined(),
        preds=lambda l: l.get_preds(),
        audit=lambda l: l.audit(),
        first=lambda l: l.check_first_batch(),
        heart=lambda l: l.one_batch_overfit(),
    )
    for name,f in calls.items():
        with pytest.raises(ValueError, match=r'no photos.*learn.dls = BBoxDataLoaders'): f(exported)
    assert same_answer(exported, trained, few[1][0].path) and one_set(exported)

def test_exported_learner_trains_on(exported, few, tmp_path):
    exported.dls = loaders(*few, vocab=few[0].vocab[::-1], path=tmp_path)
    exported.remove_cb(ProgressCallback)
    with exported.no_logging(): exported.fine_tune(1)
    assert len(exported.recorder.losses)>0 and one_set(exported) and np.isfinite(exported.final_record[1])

def test_export_leaves_the_learner_as_it_was(trained, few):
    before,was = found(trained, few[1][0].path),trained.dls
    trained.export('a.pkl')
    after = found(trained, few[1][0].path)
    assert trained.dls is was and before[0]==after[0] and torch.equal(before[1],after[1])

def test_ignored_objects_in_new_photos(few, tmp_path):
    l = learner(loaders(*few, path=tmp_path))
    assert not l.loss_func.ignore
    records = [replace(r, crowd=np.arange(len(r.labels))>0) for r in few[0]] # all but the first object
    crowd = Annotations(records, few[0].vocab)
    l.dls = loaders(crowd, few[1], path=tmp_path)
    assert l.loss_func.ignore

# Files

@pytest.mark.parametrize('name', ['a.safetensors','a.pth'])
def test_weights_without_pickle(trained, few, tmp_path, name):
    f = trained.save_weights(name)
    state,note,opt = read_detector(f)
    assert opt is None and note['vocab']==few[0].vocab and note['size']==list(SIZE)
    assert len(state['boxes'])==len(trained.model.boxes)
    l = learner(loaders(*few, path=tmp_path))
    assert same_answer(l.load_weights(name), trained, few[1][0].path) and one_set(l)

def test_the_optimizer_comes_back(trained, dls):
    trained.save('a')
    l = learner(dls)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        l.load('a')
    for p,q in zip(trained.model.parameters(),l.model.parameters()):
        for k,v in trained.opt.state[p].items():
            assert torch.equal(v,l.opt.state[q][k]) if isinstance(v,Tensor) else v==l.opt.state[q][k]
    trained.save('b', with_opt=False)
    with pytest.warns(UserWarning, match='no state of an optimizer'): l.load('b')

def test_old_files_are_told(trained, dls, tmp_path):
    "As fastai wrote them: with the optimizer, and weights alone"
    from fastai.learner import save_model
    for with_opt in (True,False):
        save_model(tmp_path/'old.pth', trained.model, trained.opt, with_opt=with_opt)
        l = learner(dls)
        with pytest.warns(UserWarning, match='does not say what its classes'): l.load(tmp_path/'old')
        assert one_set(l) and torch.equal(l.model.boxes,trained.model.boxes)
        if with_opt: assert l.opt.opt.state[l.model.head.classes[0].weight]['step']==8

def test_the_best_model_comes_back(dls):
    "fastai's SaveModelCallback goes through our `save` and `load`"
    l = learner(dls)
    with l.no_logging(): l.fit(2, 1e-3, cbs=SaveModelCallback(monitor='valid_loss', with_opt=True))
    assert (dls.path/'models/model.pth').exists() and one_set(l)

class Evil:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return (open, (str(self.mark),'w'))

def malicious(folder):
    "(name, file) of five files that should never be opened without care"
    mark = folder/'executed'
    (folder/'raw.pth').write_bytes(pickle.dumps(dict(model=Evil(mark))))
    torch.save(dict(model={'a':torch.zeros(2)}, detector=Evil(mark)), folder/'zip.pth')
    (folder/'pickle.safetensors').write_bytes(pickle.dumps(dict(model=Evil(mark))))
    deep = ('{"__metadata__":{"detector":'+'['*200_000).encode()
    (folder/'bomb.safetensors').write_bytes(struct.pack('<Q',len(deep))+deep)
    torch.save(dict(model={'a':torch.zeros(2)}, detector='['*200_000), folder/'bomb.pth')
    with zipfile.ZipFile(folder/'packed.pth','w',zipfile.ZIP_DEFLATED) as z: z.writestr('archive/data.pkl',b'0'*10**6)
    torch.save({'a':torch.zeros(10_000)}, folder/'whole.pth')
    (folder/'cut.pth').write_bytes((folder/'whole.pth').read_bytes()[:9000])
    (folder/'huge.safetensors').write_bytes(struct.pack('<Q',2**62)+b'{}')
    names = 'raw.pth zip.pth pickle.safetensors bomb.safetensors bomb.pth packed.pth cut.pth huge.safetensors'
    return mark,[folder/n for n in names.split()]

def test_malicious_files_are_never_run(trained, tmp_path):
    mark,files = malicious(tmp_path)
    before = {k:v.clone() for k,v in trained.model.state_dict().items()}
    for f in files:
        ways = [lambda: read_detector(f), lambda: trained.load_weights(f)]
        if f.suffix=='.pth': ways += [lambda: trained.load(f.with_suffix(''))]
        if f.suffix=='.pth' and f.name!='bomb.pth':
            ways += [lambda: read_weights(f), lambda: ssd300_vgg16(['a'], weights=f)]
        for way in ways:
            with pytest.raises(ValueError, match=f.name): way()
            assert not mark.exists(), f
    assert all(torch.equal(v,before[k]) for k,v in trained.model.state_dict().items())
    pickle.loads((tmp_path/'raw.pth').read_bytes()) # the test can fail: the file does what it says
    assert mark.exists()

@pytest.mark.parametrize('bad', ['{}', 'null', '[', '1e999', '9'*5000, '['*100_000, '{"a":'*50_000, None, 7])
def test_notes_that_are_none(bad):
    with pytest.raises(ValueError, match='a.pth: its note'): parse_note(bad, 'a.pth')

def test_notes_that_lie(trained):
    note = trained._note()
    assert parse_note(json.dumps(note))==note
    lies = [
        dict(vocab=[]),
        dict(vocab=['a', 'a']),
        dict(vocab=[1]),
        dict(size=[64]),
        dict(size=[64, -1]),
        dict(size=[True, 64]),
        dict(stats=[[1]]),
        dict(stats=[['x'], ['y']]),
        dict(background=1),
        dict(grids=[[10**9, 10**9]] * 3),
        dict(shapes=[]),
        dict(shapes=[[[0.1, float('nan')]]] * 3),
        dict(steps=None),
    ]
    for lie in lies:
        with pytest.raises(ValueError, match='its note'): parse_note(json.dumps({**note,**lie}))

def test_a_note_and_weights_that_disagree(trained, dls, tmp_path):
    note = trained._note()
    note['shapes'][0] = note['shapes'][0]*2
    torch.save(dict(model=trained.model.state_dict(), detector=json.dumps(note)), tmp_path/'a.pth')
    with pytest.raises(ValueError, match='number of default boxes'): learner(dls).load(tmp_path/'a')

def test_missing_file(trained):
    for f in (trained.load,trained.load_weights):
        with pytest.raises(FileNotFoundError, match='nowhere'): f('nowhere.pth')

def test_a_program_that_imports_nothing_of_ours(trained, few):
    "`load_learner` alone brings every check with it"
    trained.export('a.pkl')
    code = f"""
import warnings; warnings.simplefilter('ignore')
from fastai.learner import load_learner
learn = load_learner({str(trained.path/'a.pkl')!r})
learn.save_weights('b.pth')
try: learn.fine_tune(1)
except ValueError as e: print(e)
"""
    out = subprocess.run([sys.executable,'-W','ignore','-c',code], capture_output=True, text=True, check=True,
                         cwd=trained.path)
    assert 'There are no photos in this learner' in out.stdout

@pytest.mark.parametrize('by_class', [False,True])
def test_thresholds_go_along(few, trained, tmp_path, by_class):
    "With an exported learner, with saved weights, and with `save`; `predict` and `mistakes` use them"
    photo = few[1][0].path
    raw = trained.predict(photo, min_score=0.)
    high,low = (raw.scores[i].item()-1e-6 for i in (20,50))
    cut = {trained.dls.vocab[0]:high, trained.dls.vocab[1]:low} if by_class else high
    trained.set_thresholds(cut)
    try:
        want = raw.above(cut)
        assert 0<len(want)<len(raw) and torch.allclose(trained.predict(photo).boxes, want.boxes)
        trained.export(tmp_path/'t.pkl')
        trained.save_weights(tmp_path/'t.safetensors')
        trained.save(tmp_path/'t')
        mis = trained.mistakes(few[1])
    finally: trained.set_thresholds(None)
    assert mis.min_score==cut and trained.thresholds==.3
    loaded = load_learner(tmp_path/'t.pkl')
    for l in (loaded, learner(loaders(*few,path=tmp_path)).load_weights(tmp_path/'t.safetensors'),
              learner(loaders(*few,path=tmp_path)).load(tmp_path/'t')):
        assert l.thresholds==cut and torch.allclose(l.predict(photo).boxes, want.boxes, atol=1e-3)
    with pytest.raises(ValueError, match="no class 'rbc'"): trained.set_thresholds({'rbc':.2})

def test_a_note_with_bad_thresholds_is_damaged(trained):
    from ssd_fastai.ssd.weights import parse_note
    note = trained._note()
    for bad in ({'x':.5}, 2., {'RBC':'much'}, [.3]):
        with pytest.raises(ValueError, match='damaged'): parse_note(json.dumps(dict(note,thresholds=bad)))
    assert parse_note(json.dumps(dict(note,thresholds={'RBC':.5})))['thresholds']=={'RBC':.5}
