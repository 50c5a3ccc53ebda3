"Inflection points against curves whose points are known in closed form"
import json, random, warnings
import numpy as np, pytest, torch
from scipy.optimize import brentq
from ssd_fastai.all import *
from ssd_fastai.train.guards import unchanged
from ssd_fastai.train.lr import LRInflections, Look, analyze_look, lr_table, steepest

class Curve:
    "Logistic steps (a<0 falls) and an exponential blow-up; all derivatives in closed form"
    def __init__(self, level, steps, blow, sharp): self.level,self.steps,self.blow,self.sharp = level,steps,blow,sharp
    def d(self, x, k):
        res = np.full_like(np.asarray(x,float), self.level if k==0 else 0.)
        for a,c,w in self.steps:
            p = 1/(1+np.exp(-np.clip((x-c)/w,-500,500)))
            q = p*(1-p)
            res = res+a/w**k*(p, q, q*(1-2*p), q*(1-6*q))[k]
        return res if self.blow is None else res+np.exp(np.clip((x-self.blow)/self.sharp,-500,500))/self.sharp**k
    def roots(self, k, lo, hi):
        x = np.linspace(lo,hi,4001)
        y = self.d(x,k)
        return [brentq(lambda t: float(self.d(t,k)), x[i], x[i+1]) for i in np.where(y[:-1]*y[1:]<0)[0]]
    def steepest(self, lo, hi): return [t for t in self.roots(2,lo,hi) if self.d(t,3)>0 and self.d(t,1)<0]
    def blow_up(self, lo, hi):
        x = np.linspace(lo,hi,8001)
        y = self.d(x,0)
        m = y.argmin()
        up = np.where(y[m:]>y[m]+max(.25*(y[0]-y[m]),.1*y[0]))[0]
        return x[m+up[0]] if len(up) else np.inf

def draw(rng):
    "One to three descents with plateaus or a rise between them, 20 to 1000 points, noise, outliers, blow-up, NaN tail"
    lo,hi,n = -7,rng.uniform(0,1.5),int(round(10**rng.uniform(np.log10(20),3)))
    k = rng.integers(1,4) if n>=60 else rng.integers(1,3)
    double = k>1 and rng.random()<1/3
    finest = max(.12,.8*(hi-lo)/(n-1))
    w = rng.uniform(finest, max(finest*1.4,.35), k)
    c = np.cumsum(np.r_[rng.uniform(-5.5,-2) if k==1 else rng.uniform(-6,-4.6),
                        [4*(w[i]+w[i-1])*rng.uniform(.9,1.5)+.5*double for i in range(1,k)]])
    if c[-1]>-1.2: # rates near 1, where 15 % of log10 is nothing, do not occur
        c = c[0]+(c-c[0])*(-1.2-c[0])/(c[-1]-c[0])
        w = np.minimum(w, np.diff(c).min()/5.5)
        if w.min()<.9*finest: return draw(rng)
    a = rng.uniform(.5,1.5,k)
    a /= a.sum()
    steps = list(zip(-a,c,w))
    if double:
        i = rng.integers(0,k-1)
        steps.append((rng.uniform(.3,.6)*min(a[i],a[i+1]), (c[i]+c[i+1])/2, w[i]))
    blow = c[-1]+(rng.uniform(.3,1) if rng.random()<.3 else rng.uniform(1.5,3)) if rng.random()<.75 else None
    cv = Curve(rng.uniform(1.3,3), steps, blow, rng.uniform(.08,.3))
    x = np.linspace(lo,hi,n)
    y = cv.d(x,0)
    stop = np.where(y>4*np.minimum.accumulate(y))[0] # where lr_find stops
    if len(stop):
        end = stop[0]+1
        if rng.random()<.4:
            y[end:] = np.nan
            end += rng.integers(1,10)
        x,y = x[:end],y[:end]
    noise = rng.uniform(0,.04)*min(1,len(x)/100)**.5
    hi = x[np.isfinite(y)].max()
    y = y+rng.normal(0,noise,len(y))
    if rng.random()<.3 and len(y)>=100:
        m = rng.random(len(y))<.02
        y[m] += rng.uniform(3,8,m.sum())*max(noise,.01)
    return cv,x,y,lo,hi

def grade(seeds):
    """(found, there) of steepest points and of turns of the gradient beside them; points in the excluded zone;
    points that are nowhere; errors in decades"""
    n = dict(steep=[0,0], turns=[0,0], excluded=0, made_up=0)
    errs = []
    for s in seeds:
        cv,x,y,lo,hi = draw(np.random.default_rng(s))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            r = lr_inflections(10**x, y)
        true,turns,limit = cv.steepest(lo,hi),cv.roots(3,lo,hi),cv.blow_up(lo,hi)-1
        got,tgot = ([np.log10(p.lr) for p in r.points if p.curve==o] for o in ('loss','gradient'))
        def off(t, ps): return min((abs(t-p) for p in ps), default=9)
        for t in true:
            if t<limit-.15:
                e = off(t,got)
                errs.append(e)
                n['steep'][0] += e<=.15*abs(t)
                n['steep'][1] += 1
        for t in true: # its knees: the nearest roots of the third derivative, where the gradient curve turns
            for j in (max([o for o in turns if o<t],default=None),min([o for o in turns if o>t],default=None)):
                if j is not None and j<limit-.15 and lo+.3<j<hi-.3 and off(t,got)<=.15*abs(t):
                    n['turns'][0] += off(j,tgot)<=.15*abs(j)
                    n['turns'][1] += 1
        n['excluded'] += sum(p>limit for p in got+tgot)
        n['made_up'] += sum(off(p,true)>.15*abs(p) for p in got)
    return n,errs

def test_known_inflections_of_200_curves():
    n,errs = grade(range(200))
    more,_ = grade(range(200,400))
    print(n, f'error in decades: median {np.median(errs):.3f}, 95 % {np.quantile(errs,.95):.2f}')
    assert n['steep'][1]>250 and n['steep'][0]>=.95*n['steep'][1]
    assert n['turns'][0]>=.95*n['turns'][1]
    # curves that nothing was adjusted to
    assert sum(more[k][0] for k in ('steep','turns'))>=.95*sum(more[k][1] for k in ('steep','turns'))
    assert n['excluded']==more['excluded']==0 and n['made_up']<=.03*n['steep'][1]
    assert np.median(errs)<.05

@pytest.mark.parametrize(
    'losses,says',
    [
        ([2.0] * 100, 'nowhere'),
        (np.linspace(3, 1, 100), 'evenly'),
        (np.linspace(1, 3, 100), 'explodes from'),
        ([2, 1], '2 losses'),
        ([], '0 losses'),
        ([np.nan] * 50, '0 losses'),
        ([2.0] * 4 + [np.inf] * 50, '4 losses'),
        (2 + np.random.default_rng(0).normal(0, 0.1, 100), 'nowhere'),
    ],
    ids='flat falling rising two none nan inf noise'.split(),
)
def test_degenerate_curves_say_why(losses, says):
    lrs = np.geomspace(1e-7,1,len(losses))
    with pytest.warns(UserWarning, match=says): r = lr_inflections(lrs, losses)
    assert r==LRInflections([],None,None) and len(lr_table(r))==0
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        v = Inflection(tensor(lrs), tensor(np.array(losses,float)), 100)
    assert np.isnan(v[0]) and np.isnan(v[1]).all()
    plot_inflections(lrs, losses)
    plt.close('all')

def test_everything_in_the_excluded_zone():
    x = np.linspace(-7,0,150)
    cv = Curve(2,[(-1,-3,.2)],-2.4,.1)
    y = cv.d(x,0)
    keep = y<6
    with pytest.warns(UserWarning, match='within a factor 10'): r = lr_inflections(10**x[keep], y[keep])
    assert r.points==[] or max(p.lr for p in r.points)<=10**(cv.blow_up(-7,-1)-1)

def test_pair_and_strength():
    x = np.linspace(-7,-1,400)
    sharp,wide = (lr_inflections(10**x, Curve(3,[(-1,-5,w),(-1,-3+m,w)],None,1).d(x,0)) for w,m in ((.12,-.2),(.45,.4)))
    steep = [p for p in sharp.points if p.curve=='loss']
    assert len(steep)==2 and all(p.strong for p in steep) and not any(p.strong for p in wide.points)
    for r in (sharp,wide): assert r.lr==r.slice.stop and 10<=r.slice.stop/r.slice.start<=100.0001
    # the rightmost point, its right knee; a knee that is not strong is left out
    assert sharp.lr==sharp.points[-1].lr and sharp.points[-1].strong
    assert wide.points[-1].curve=='gradient' and wide.lr==max(p.lr for p in wide.points if p.curve=='loss')
    assert sharp.slice.start in [p.lr for p in sharp.points if p.strong]
    assert not any(p.strong for p in lr_inflections(10**x, Curve(3,[(-1,-5,.12),(-1,-3,.12)],None,1).d(x,0),
                                                    factor=1.1).points)
    assert [p.lr for p in sharp.points]==sorted(p.lr for p in sharp.points)

def test_input_forms_and_errors():
    x = np.linspace(-7,-1,100)
    y = Curve(3,[(-1,-4,.3)],None,1).d(x,0)
    want = lr_inflections(10**x,y)
    for a,b in ((list(10**x),list(y)),(tensor(10**x),tensor(y)),(10**x,[tensor(o) for o in y])):
        assert abs(np.log10(lr_inflections(a,b).lr/want.lr))<.01
    for a,b,m in (([1,2,3],[1],'one loss for each'),([3,2,1],[1,2,3],'rise'),([0,1,2],[1,2,3],'larger than 0')):
        with pytest.raises(ValueError, match=m): lr_inflections(a,b)

def small(train, valid, **kw):
    dls = BBoxDataLoaders.from_annotations(train[:16], valid[:8], size=64, bs=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return ssd_learner(dls, 'resnet10t', pretrained=False, **kw)

def test_learner_is_as_it_was(train, valid):
    set_seed(1, reproducible=True)
    l = small(train, valid)
    with l.no_bar(),l.no_logging(): l.fit(1, 1e-3)
    flat = lambda sd: [v.clone() for s in sd['state'].values() for v in s.values() if isinstance(v,Tensor)]
    before = (
        {k: v.clone() for k, v in l.model.state_dict().items()},
        flat(l.opt.state_dict()),
        [dict(h) for h in l.opt.hypers],
    )
    random_state = random.getstate(),np.random.get_state()[1].copy(),torch.get_rng_state(),l.dls.train.rng.getstate()
    with l.no_bar(),warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l.lr_inflections(num_it=12, show=False)
    assert all(torch.equal(v,before[0][k]) for k,v in l.model.state_dict().items())
    assert len(before[1])>0 and all(torch.equal(a,b) for a,b in zip(flat(l.opt.state_dict()),before[1]))
    assert [dict(h) for h in l.opt.hypers]==before[2]
    assert random.getstate()==random_state[0] and (np.random.get_state()[1]==random_state[1]).all()
    assert torch.equal(torch.get_rng_state(),random_state[2]) and l.dls.train.rng.getstate()==random_state[3]

def test_same_training_with_and_without_the_look(train, valid):
    def run(look):
        set_seed(3, reproducible=True)
        l = small(train, valid)
        with l.no_bar(),l.no_logging(),warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if look:
                l.lr_inflections(num_it=10, show=False)
                assert l.opt is None
            l.fit_one_cycle(1, 1e-3)
        return torch.cat([p.detach().flatten() for p in l.model.parameters()])
    assert torch.equal(run(True), run(False))

def test_unchanged_after_an_error(train, valid):
    l = small(train, valid)
    before = [p.clone() for p in l.model.parameters()]
    l.model.eval()
    with pytest.raises(KeyboardInterrupt), unchanged(l), torch.no_grad():
        for p in l.model.parameters(): p += 1
        l.model.train()
        raise KeyboardInterrupt
    assert all(torch.equal(a,b) for a,b in zip(l.model.parameters(),before))
    assert not any(m.training for m in l.model.modules())

# Looks with the untouched network beside it

def no_signal(rng, fall=0.):
    x = np.linspace(-7,1,100)
    d = rng.normal(size=100)*(1e-5*10**((x+7)/2)).clip(max=.2)-fall/(1+np.exp(-(x+4.5)/.3))+np.exp((x+2)/.3).clip(max=3)*(x>-2.5)
    return Look(10**x, 1+d, np.ones(100))

def test_noise_is_no_descent_and_a_small_fall_is_one():
    rng = np.random.default_rng(1)
    made_up = sum(len(analyze_look(no_signal(rng))[3])>0 for _ in range(600))
    found = [analyze_look(no_signal(rng,.01))[3] for _ in range(100)]
    assert made_up<=.06*600, made_up
    assert sum(map(bool,found))>=95
    # running means lag, so the steepest point of the mean lies to the right of -4.5, the same for all
    at = [np.log10(next(p.lr for p in o if p.curve=='loss')) for o in found if o]
    assert -4.6<np.median(at)<-3.2

def test_eight_real_looks():
    "Two sets at four moments (tests/bench/looks.py): points where the loss falls, and they drift to the left"
    rows = json.loads((Path(__file__).parent/'looks.json').read_text())
    found,reasons = {},0
    for r in rows:
        look = Look(*r['look'])
        y,s,stop,pts,why = analyze_look(look)
        assert bool(pts)!=bool(why) and all(np.log10(p.lr)<=stop-1 for p in pts)
        if pts: found[r['set'],r['epochs']] = next(p.lr for p in pts if p.curve=='loss')
        else: # the reason is on the plot: the gradient stays within its band
            below = -s.slope>3*s.err
            assert why.startswith('The loss falls, but' if below.any() else 'Nowhere')
            assert not len(steepest(s, 0., 3.))
            reasons += 1
        plt.close('all')
    assert len(rows)==8 and len(found)>=6
    for name in ('sample','bccd'):
        late = [v for (n,e),v in found.items() if n==name and e>=15]
        assert late and max(late)<found[name,0]

def test_one_search_is_enough(train, valid):
    l = small(train, valid)
    calls = []
    class Count(Callback):
        def before_fit(self): calls.append(1)
    l.add_cb(Count())
    with l.no_bar(),warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l.lr_find(num_it=24, show_plot=False)
        n = len(calls)
        l.lr_inflections(show=False)
        assert len(calls)==n and len(l.look.losses)==len(l.look.before)
        assert l.look.before[0]==pytest.approx(l.look.losses[0],rel=1e-5)
        with l.no_logging(): l.fit(1, 1e-4)
        m = len(calls)
        l.lr_inflections(num_it=24, show=False)
        assert len(calls)==m+1
        assert l.lr_inflections(num_it=24, show=False, search=True) is not None and len(calls)==m+2

@pytest.mark.parametrize('precision', ['fp32','bf16'])
def test_the_copy_sees_the_same(train, valid, precision):
    "At learning rates of nearly nothing network and copy say the same, with dropout and in half precision"
    l = small(train, valid, precision=precision, drop=.4)
    with l.no_bar(),warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l.lr_inflections(start_lr=1e-12, end_lr=1e-11, num_it=24, show=False)
    assert np.allclose(l.look.losses, l.look.before, rtol=1e-4) and np.std(l.look.losses)>1e-3
