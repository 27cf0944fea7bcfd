"""Experimental"""
from dataclasses import dataclass, field
import numpy as np, torch
from frconvert.coding import coefficients, tables
from frconvert.coding.fit import fit
from frconvert.coding.scales import classes
from frconvert.coding.quantize import storable_step, round_mantissa
from frconvert.distill import feedback as F, layers as L, torch_run as R
from frconvert.spectral import dct

@dataclass
class Knobs:
    damping: float = 0.03
    worth: float = 0.12
    sweeps: int = 0
    centred: bool = True
    matched: float = 1.0   # towards the original's outputs on compressed inputs
    match_damping: float = 0.1
    norms: bool = True
    positions: int = 40000
    feedback: bool = True

def coded_bytes(values, step, kind=0):
    f=fit(values); part=coefficients.Coded(values.reshape(-1).astype(np.float32).copy(),values.shape,step,f.scales(step))
    b=coefficients.encode([part],kind,aware=kind>0)
    return len(b), part.values.reshape(values.shape)

def price_lists(tail):
    return np.stack([np.minimum(tables.bits(tail,min(k,31),half_way=False),24) for k in range(tables.CLASSES)]).astype(np.float32)

def quantise_tensor(use, W, gram, step, axes, k):
    """W tensor -> quantised coefficients tensor (float32), via feedback"""
    coef=dct.forward(W,axes)
    f=fit(coef); sc=f.scales(step)
    if use.kind==L.LOOKUP or gram is None or not k.feedback:
        if use.kind==L.LOOKUP and gram is not None and k.feedback:
            return quantise_rows(coef, gram, step, f, k)
        return (np.rint(coef/np.float32(step))*np.float32(step)).astype(np.float32)
    cls=L.matrices(use,np.ascontiguousarray(classes(sc,coef.shape)))
    G=L.transformed_gram(gram,use,W.shape,axes)
    M=L.matrices(use,coef)
    bits=price_lists(sc.shape)
    out=np.empty(M.shape,np.float32)
    for g in range(len(M)):
        H=F.damped(G[g],k.damping)
        ct=np.ascontiguousarray(cls[g].T)
        out[g]=F.round_with_feedback(M[g],H,step,F.Prices(bits,lambda j:ct[j]),k.worth,k.sweeps)
    return L.tensor_of(use,out*np.float32(step),W.shape)

def quantise_rows(coef, weight, step, f, k):
    """lookup table: row weights"""
    sc=f.scales(step); bits=price_lists(sc.shape); cls=classes(sc,coef.shape)
    w=(weight/weight.mean()).astype(np.float32)
    out=np.empty(coef.shape,np.float32)
    x=coef/np.float32(step)
    for lo in range(0,len(x),4096):
        s=slice(lo,lo+4096); v=x[s]; worth=(k.worth/w[s])[:,None]
        near=np.clip(np.rint(v),-126,126); row=cls[s].astype(np.int32)*256+128
        best=near; least=(v-near)**2+worth*bits.take(row+near.astype(np.int32))
        for c in (near-np.sign(near),np.zeros_like(near)):
            cost=(v-c)**2+worth*bits.take(row+c.astype(np.int32)); b=cost<least
            best=np.where(b,c,best); least=np.where(b,cost,least)
        out[s]=best*np.float32(step)
    return out

def trace(module, batch):
    return [use for use,_ in R.lockstep(module,[batch],{})]

def refine(module, batches, plan, knobs, update=True, log=None):
    """plan: name -> (axes, step). Returns new tensors by name (weights, vectors), coded values."""
    params={n:p.detach() for n,p in module.named_parameters()}
    uses=trace(module,batches[0])
    new={}; coefs={}; layer_db={}
    place=-1
    for use,pairs in R.lockstep(module,batches,new if update else {}):
        place+=1
        if isinstance(use,R.Norm):
            if not knobs.norms or not update: continue
            new_vectors(use,pairs,params,new); continue
        if use.weight in coefs or use.weight not in plan: continue
        axes,step=plan[use.weight]
        W=params[use.weight].numpy().astype(np.float32)
        if use.kind==L.LOOKUP:
            counts=np.zeros(len(W))
            for a,_ in pairs: counts+=np.bincount(a.inputs.reshape(-1).numpy(),minlength=len(W))
            q=quantise_tensor(use,W,counts+0.5,step,axes,knobs)
            coefs[use.weight]=q; new[use.weight]=torch.from_numpy(dct.inverse(q.copy(),axes)); continue
        follows=place+1<len(uses) and isinstance(uses[place+1],R.Norm) and uses[place+1].channel_axis==1 and use.kind in (L.CONVOLUTION,)
        has_bias=use.bias is not None
        kernel=W.shape[2:]
        M=L.matrices(use,W); K=M.shape[2]
        H=np.zeros((len(M),K,K)); C=np.zeros_like(H); m1=np.zeros((len(M),K)); m2=np.zeros_like(m1); n=0
        most=max(1,knobs.positions//len(batches))
        for number,(a,b) in enumerate(pairs):
            x=L.columns(use,a.inputs.numpy(),kernel,most,number); xh=L.columns(use,b.inputs.numpy(),kernel,most,number)
            H+=xh.swapaxes(1,2)@xh
            if knobs.matched: C+=x.swapaxes(1,2)@xh
            m1+=x.sum(1,dtype=np.float64); m2+=xh.sum(1,dtype=np.float64); n+=x.shape[1]
        H/=n; C/=n; m1/=n; m2/=n
        raw=H.copy()
        if knobs.centred and (has_bias or follows):
            H-=m2[:,:,None]*m2[:,None,:]; C-=m1[:,:,None]*m2[:,None,:]
        target=M.astype(np.float64)
        if knobs.matched and update:
            for g in range(len(M)):
                D=F.damped(H[g],knobs.match_damping)
                target[g]=M[g]+knobs.matched*np.linalg.solve(D,(M[g]@(C[g]-H[g])).T).T
        T=L.tensor_of(use,target.astype(np.float32),W.shape)
        q=quantise_tensor(use,T,H,step,axes,knobs)
        coefs[use.weight]=q
        Wq=dct.inverse(q.copy(),axes)
        new[use.weight]=torch.from_numpy(np.ascontiguousarray(Wq))
        Mq=L.matrices(use,Wq)
        if has_bias:
            b=params[use.bias].numpy()
            shift=(np.einsum('grk,gk->gr',M,m1)-np.einsum('grk,gk->gr',Mq,m2)).reshape(-1)
            new[use.bias]=torch.from_numpy(round_mantissa((b+shift).astype(np.float32),8).astype(np.float32))
        if log is not None:
            e=np.einsum('grk,gkl,grl->',target-Mq,H,target-Mq); s=np.einsum('grk,gkl,grl->',M,H,M)
            log[use.weight]=10*np.log10(s/e)
    return new,coefs,R.lockstep.outputs

def new_vectors(use,pairs,params,new):
    acc=None
    for a,b in pairs:
        y=a.run({}); z=b.run({})
        y=y[0] if isinstance(y,tuple) else y; z=z[0] if isinstance(z,tuple) else z
        if use.channel_axis==1: y=y.movedim(1,-1); z=z.movedim(1,-1)
        y=y.reshape(-1,y.shape[-1]).double(); z=z.reshape(-1,z.shape[-1]).double()
        s=torch.stack([y.sum(0),z.sum(0),(z*z).sum(0),(y*z).sum(0)]); n=len(y)
        acc=(s,n) if acc is None else (acc[0]+s,acc[1]+n)
    (sy,sz,szz,syz),n=acc
    my,mz=sy/n,sz/n; var=szz/n-mz*mz; cov=syz/n-my*mz
    a=torch.where(var>1e-12,(cov+0.02*var)/(1.02*var+1e-30),torch.ones_like(var)).clamp(0.5,2)
    c=my-a*mz
    g,b=params[use.scale].double(),params[use.shift].double()
    f=lambda t: torch.from_numpy(round_mantissa(t.float().numpy(),8).astype(np.float32))
    new[use.scale]=f(a*g); new[use.shift]=f(a*b+c)
