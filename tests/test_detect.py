"Post-processing against torchvision 0.29: ties, thousands of candidates, none; and the list that a GPU hands over"
import pytest, torch
from torchvision.models.detection import ssd300_vgg16 as tv_ssd300
from ssd_fastai.all import *
from torchvision.ops import box_iou
from ssd_fastai.ssd import detect as detect_module
from ssd_fastai.ssd.detect import select, shortlist, suppress, vote_boxes
from ssd_fastai.use import onnx_detector
from ssd_fastai.use.onnx_detector import np_vote

coder = BoxCoder()
fine,coarse = published_boxes('ssd300_coco').boxes,published_boxes('ssdlite320').boxes[::5]

@pytest.fixture(scope='module')
def theirs(): return tv_ssd300(weights=None,weights_backbone=None)

def outputs(kind, g):
    "Scores and offsets of a kind, for one photo; (scores (1, A, C), offsets (1, A, 4), default boxes)"
    C = int(torch.randint(2,25,(1,),generator=g))
    default = fine[::3] if kind=='thousands' else coarse
    A = len(default)
    o, s = (
        torch.randn(1, A, 4, generator=g) * torch.tensor([1.5, 0.3])[torch.randint(2, (1,), generator=g)],
        torch.randn(1, A, C, generator=g),
    )
    if kind=='none': s[...,0] += 30
    elif kind=='few':
        s[...,0] += 5
        s[:,::50,-1] += 7
    elif kind=='ties':  # few different scores, many times each
        s = (s*2).round()/2
        s[...,0] += 2
    elif kind=='all the same':
        s.zero_()
        o.zero_()
    elif kind=='thousands': s *= .2
    elif kind=='duplicates':
        s[:,1::2] = s[:,:-1:2][:,:s[:,1::2].shape[1]]
        o[:,1::2] = o[:,:-1:2][:,:o[:,1::2].shape[1]]
    elif kind=='beyond the photo': o *= 8
    elif kind=='saturated': s[...,1:] += 40*(torch.rand(1,A,C-1,generator=g)<.2)
    return s,o,default

kinds = ['none','few','ties','all the same','thousands','duplicates','beyond the photo','saturated']

def judge(theirs, s, o, default, **kw):
    for k,v in {**dict(score_thresh=.01,topk_candidates=400,nms_thresh=.45,detections_per_img=200),**kw}.items():
        setattr(theirs,k,v)
    # in our units: a photo of 1 × 1
    return theirs.postprocess_detections(dict(bbox_regression=o,cls_logits=s), [default]*len(s), [(1,1)]*len(s))

def rows(boxes, scores, labels): return {(l,s,*b) for l,s,b in zip(labels.tolist(),scores.tolist(),boxes.tolist())}

@pytest.mark.parametrize('kind', kinds)
def test_equal_to_torchvision(theirs, kind):
    """25 cases of each of 8 kinds. Equal scores have no order, so which of them are the last of 200 is chance,
    in torchvision too: all that is kept without that limit must be the same"""
    g = torch.Generator().manual_seed(kinds.index(kind))
    found = 0
    for i in range(25):
        s,o,default = outputs(kind,g)
        vocab = list(range(s.shape[2]-1))
        (want,),(every,) = judge(theirs,s,o,default),judge(theirs,s,o,default,detections_per_img=10**6)
        got,all_got = (detect((s,o), default, coder, [(1,1)], vocab, degenerate=True, keep=k)[0] for k in (None,10**6))
        assert torch.allclose(got.scores, want['scores'], atol=1e-6) and torch.allclose(
            all_got.scores, every['scores'], atol=1e-6
        ), i
        full = rows(every['boxes'],every['scores'],every['labels']-1)
        assert (
            rows(all_got.boxes, all_got.scores, all_got.labels) == full
            and rows(got.boxes, got.scores, got.labels) <= full
        ), i
        if len(want['scores'].unique())==len(want['scores']):
            assert torch.equal(got.labels,want['labels']-1) and torch.allclose(got.boxes,want['boxes'],atol=1e-6)
        found += len(got)
    assert found==0 if kind=='none' else found>25

def test_other_settings(theirs):
    g = torch.Generator().manual_seed(9)
    for kw in (dict(score_thresh=.001,topk_candidates=300,nms_thresh=.55,detections_per_img=300),
               dict(score_thresh=.3,topk_candidates=7,nms_thresh=.9,detections_per_img=3)):
        s,o,default = outputs('thousands',g)
        want, = judge(theirs,s,o,default,**kw)
        got, = detect((s,o), default, coder, [(1,1)], list(range(s.shape[2]-1)), degenerate=True,
                      min_score=kw['score_thresh'], top_k=kw['topk_candidates'], nms=kw['nms_thresh'],
                      keep=kw['detections_per_img'])
        assert torch.equal(got.labels,want['labels']-1) and torch.allclose(got.boxes,want['boxes'],atol=1e-6)

def test_boxes_without_area_are_left_out(theirs):
    "The one deviation: torchvision keeps what lies outside the photo, as a box of no area"
    g = torch.Generator().manual_seed(3)
    s,o,default = outputs('beyond the photo',g)
    want, = judge(theirs,s,o,default)
    got, = detect((s,o), default, coder, [(1,1)], list(range(s.shape[2]-1)))
    flat = lambda b: ((b[:,2:]-b[:,:2])<=0).any(1)
    assert flat(want['boxes']).any() and not flat(got.boxes).any() and len(got)>0

@pytest.mark.parametrize('background', [True,False])
@pytest.mark.parametrize('nms', [.45,None])
def test_listed_path_is_the_same(background, nms):
    "What a GPU does, done on a CPU; with a list that is too short for some of the photos"
    g = torch.Generator().manual_seed(4)
    for kind in ('few','thousands','none','beyond the photo'):
        s,o,default = outputs(kind,g)
        if not background: s = s[...,1:]-(30 if kind=='none' else 2)
        s,o = torch.cat([s,s.flip(1)]),torch.cat([o,o.flip(1)])
        vocab = list(range(s.shape[2]-background))
        for kw in (dict(),dict(keep=5),dict(top_k=9,min_score=.2)):
            a,b = (detect((s,o), default, coder, [(30,20)]*2, vocab, background, listed=l, nms=nms,
                          **kw) for l in (False,True))
            for x,y in zip(a,b): # equal scores, which chance brings, have no order
                assert len(x)==len(y) and torch.allclose(x.scores,y.scores,atol=1e-6), (kind,kw)
                alone = torch.tensor([(x.scores==v).sum()==1 for v in x.scores],dtype=torch.bool)
                assert torch.allclose(x.boxes[alone],y.boxes[alone],atol=1e-4), (kind,kw)
                assert torch.equal(x.labels[alone],y.labels[alone]), (kind,kw)
                assert len(x)==0 or alone.float().mean()>.9, (kind,kw)

def test_list_too_short_falls_back(monkeypatch):
    import ssd_fastai.ssd.detect as d
    g = torch.Generator().manual_seed(5)
    s,o,default = outputs('thousands',g)
    vocab = list(range(s.shape[2]-1))
    want, = detect((s,o), default, coder, [(1,1)], vocab, listed=False)
    real = d.shortlist
    monkeypatch.setattr(d,'shortlist',lambda *a,**k: real(*a,**k)[:,:60])
    got, = detect((s,o), default, coder, [(1,1)], vocab, listed=True)
    assert len(want)>60 and torch.allclose(got.boxes,want.boxes,atol=1e-6)

def test_the_list_asks_the_device_nothing():
    "It runs on the meta device, which has no numbers to look at; then one piece comes over for the whole batch"
    s,o = torch.empty(8,len(fine),21,device='meta'),torch.empty(8,len(fine),4,device='meta')
    assert shortlist((s,o), fine.to('meta'), coder).shape==(8,4096,6)

def test_above_and_lowest():
    from ssd_fastai.ssd.detect import lowest
    vocab = ['a','b','c']
    d = Detections(torch.rand(6,4), tensor([.9,.6,.5,.4,.3,.1]), tensor([0,1,2,0,1,2]), vocab)
    assert d.above(.4).scores.tolist()==pytest.approx([.9,.6,.5,.4])
    assert d.above({'a':.95,'b':.2}).scores.tolist()==pytest.approx([.6,.5,.3]) # c: .3
    assert lowest(.2,vocab)==.2 and lowest({'a':.9,'b':.2},vocab)==.2 and lowest({'a':.9},vocab)==.3
    with pytest.raises(ValueError, match="no class 'x'"): lowest({'x':.2}, vocab)
    for bad in (1.2,-1,{'a':7}):
        with pytest.raises(ValueError, match='between 0 and 1'): lowest(bad, vocab)

# Box voting

def voted_slowly(boxes, scores, labels, kept, vote):
    "Box by box, as the definition reads"
    res = []
    for k in kept:
        w,total = 0.,torch.zeros(4)
        for b,s,l in zip(boxes,scores,labels):
            lo,hi = torch.maximum(b[:2],boxes[k,:2]),torch.minimum(b[2:],boxes[k,2:])
            inter = (hi-lo).clamp(min=0).prod()
            iou = inter/((b[2:]-b[:2]).prod()+(boxes[k,2:]-boxes[k,:2]).prod()-inter)
            if l==labels[k] and iou>=vote and s>=.01:
                w += s*iou**2
                total += s*iou**2*b
        res.append(total/w if w else boxes[k])
    return torch.stack(res)

@pytest.mark.parametrize('seed', range(20))
def test_vote_is_its_definition(seed):
    g = torch.Generator().manual_seed(seed)
    lo = torch.rand(60,2,generator=g)*.6
    b,s = torch.cat([lo,lo+.2+.2*torch.rand(60,2,generator=g)],1),torch.rand(60,generator=g)
    l = torch.randint(0,3,(60,),generator=g)
    kept,vote = suppress(b,s,l,.45),.4+.4*torch.rand(1,generator=g).item()
    want = voted_slowly(b, s, l, kept, vote)
    assert torch.allclose(vote_boxes(b,s,l,kept,vote), want, atol=1e-5)
    for c in range(3): # and numpy's, class by class
        i,k = (l==c).nonzero()[:,0],kept[l[kept]==c]
        got = np_vote(b[i].numpy(), s[i].numpy(), b[k].numpy(), vote)
        assert torch.allclose(torch.from_numpy(got), want[l[kept]==c], atol=1e-5)

def test_the_file_votes_from_the_same_score(): assert onnx_detector.least_vote==detect_module.least_vote

def test_vote_keeps_scores_labels_and_order():
    g = torch.Generator().manual_seed(0)
    lo = torch.rand(200,2,generator=g)*.7
    probs,boxes = torch.rand(200,2,generator=g),torch.cat([lo,lo+.3],1)
    (b0,s0,l0),(b1,s1,l1) = (select(probs,boxes,.1,vote=v) for v in (None,.6))
    assert torch.equal(s0,s1) and torch.equal(l0,l1) and not torch.equal(b0,b1)
    assert (b1>=0).all() and (b1<=1).all() and box_iou(b0,b1).diag().min()>.5
    raw = select(probs, boxes, .1, nms=None, vote=.6)
    assert torch.equal(raw[0], select(probs,boxes,.1,nms=None)[0]), 'without suppression nobody votes'

@pytest.mark.parametrize('listed', [False,True])
def test_a_threshold_moves_no_box(listed):
    "What is shown at .3 lies where it lies at 0"
    g = torch.Generator().manual_seed(3)
    s,o = 3*torch.randn(1,len(coarse),4,generator=g),.3*torch.randn(1,len(coarse),4,generator=g)
    every,some = (detect((s,o), coarse, coder, [(100,100)], list('abc'), min_score=m, vote=.6, listed=listed)[0] for m in (.0,.3))
    want = every.above(.3)
    assert len(some)>5 and torch.equal(some.labels[:len(want)], want.labels)
    assert torch.allclose(some.boxes[:len(want)], want.boxes, atol=1e-4)

@pytest.mark.parametrize('boxes', [torch.zeros(0,4), torch.tensor([[.2,.2,.2,.2]]), torch.tensor([[0.,0,1,1]])])
def test_vote_of_few(boxes):
    n = len(boxes)
    assert torch.equal(vote_boxes(boxes, torch.ones(n), torch.zeros(n), torch.arange(n), .6), boxes)
    assert torch.equal(vote_boxes(boxes, torch.zeros(n), torch.zeros(n), torch.arange(n), .6), boxes), 'scores of zero'
