/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of tmem objects (kmod/core/tmem/object.c) for spin: one object id with one page in it,
 * an owner who puts, replaces, fails to replace, takes, flushes and looks, another client who
 * flushes the object or puts a second page of the same id, and the evictor. All interleavings of
 * what runs under one lock with what runs under others, or none, are tried.
 *
 * Shown: a page is never added to a dead object and a dead one is never hashed (nothing is
 * resurrected); nothing is used after its last reference went; the owner never finds a page after
 * its own flush, exclusive get or failed put, nor any version but its last; when all is over, what
 * is in the index is on the LRU list, each reference is accounted for, and nothing has leaked.
 *
 * Each -DMUT_x breaks one rule on purpose; the checker must find an error then (tests/model/run).
 */
#define OBJS  3 /* records, reused when free */
#define PAGES 6
#define NONE  255

/* Index slots of an object: 0 is the owner's page, 1 the other client's. */
typedef object {
	bool alloc, dead;
	byte refs;
	byte slot[2]; /* page or NONE */
}
typedef page {
	bool alloc, lru;
	byte refs, obj, nr, version;
}

object o[OBJS];
page p[PAGES];
byte hash = NONE; /* the object hashed under the id */
byte live;     /* version the owner may find; 0: nothing */
byte running = 3;

/*
 * What runs under a lock is one step: it touches what that lock protects and counters that are
 * atomic, so no other process can tell an interleaving within it from one around it. (That locks
 * are taken in order is the business of their ranks, in the code.)
 */
#define LOCK(l)	  atomic { skip
#define UNLOCK(l) skip }

/* Every touch of a record asserts that it is there. */
#define IS_OBJ(x)  assert(o[x].alloc && o[x].refs > 0)
#define IS_PAGE(x) assert(p[x].alloc && p[x].refs > 0)

inline page_put(x)
{
	d_step {
		IS_PAGE(x);
		p[x].refs--;
		if
		:: p[x].refs == 0 ->
			assert(!p[x].lru);
			p[x].alloc = false;
			p[x].version = 0
		:: else
		fi
	}
}

inline object_put(x)
{
	d_step {
		IS_OBJ(x);
		o[x].refs--;
		if
		:: o[x].refs == 0 ->
			assert(o[x].dead && hash != x);
			assert(o[x].slot[0] == NONE && o[x].slot[1] == NONE);
			o[x].alloc = false;
			o[x].dead = false
		:: else
		fi
	}
}

inline lru_del(x)
{
	LOCK(lru);
	p[x].lru = false;
	UNLOCK(lru)
}

/* A free record of each kind; there are enough for three processes. */
inline object_new(x)
{
	d_step {
		x = 0;
		do
		:: x < OBJS && o[x].alloc -> x++
		:: else -> break
		od;
		assert(x < OBJS);
		o[x].alloc = true;
		o[x].refs = 2;
		o[x].slot[0] = NONE;
		o[x].slot[1] = NONE
	}
}

inline page_new(x, n, v)
{
	d_step {
		x = 0;
		do
		:: x < PAGES && p[x].alloc -> x++
		:: else -> break
		od;
		assert(x < PAGES);
		p[x].alloc = true;
		p[x].refs = 1;
		p[x].nr = n;
		p[x].version = v;
		p[x].obj = NONE
	}
}

inline object_find(x)
{
	LOCK(shard);
	x = hash;
	if
	:: x != NONE -> IS_OBJ(x); o[x].refs++
	:: else
	fi;
	UNLOCK(shard)
}

inline object_get(x)
{
	object_find(x);
	if
	:: x == NONE ->
		LOCK(shard);
		if
		:: hash == NONE -> object_new(x); hash = x
		:: else -> x = hash; IS_OBJ(x); o[x].refs++
		fi;
		UNLOCK(shard)
	:: else
	fi
}

/* Who took the last page. */
inline object_reap(x)
{
	mine = false;
	LOCK(shard);
	LOCK(object);
	if
	:: !o[x].dead && o[x].slot[0] == NONE && o[x].slot[1] == NONE ->
#ifdef MUT_REAP_ALIVE
		skip;
#else
		o[x].dead = true;
#endif
		assert(hash == x);
		hash = NONE;
		mine = true
	:: else
	fi;
	UNLOCK(object);
	UNLOCK(shard);
	if
	:: mine -> object_put(x)
	:: else
	fi;
	mine = false
}

inline reap_if_empty(x)
{
	if
	:: bare -> object_reap(x)
	:: else
	fi;
	bare = false
}

/* Stores version @v of page @n. */
inline put(n, v)
{
	page_new(pg, n, v);
	retry = true;
	do
	:: retry ->
		object_get(ob);
		LOCK(object);
#ifdef MUT_PUT_IGNORES_DEAD
		if
		:: false -> skip
		:: else ->
#else
		if
		:: o[ob].dead -> skip
		:: else ->
#endif
			retry = false;
			assert(!o[ob].dead && hash == ob);
			old = o[ob].slot[n];
			o[ob].slot[n] = pg;
			p[pg].obj = ob;
			if
			:: n == 0 -> live = v
			:: else
			fi;
			LOCK(lru);
			p[pg].lru = true;
			UNLOCK(lru);
			if
			:: old != NONE -> lru_del(old)
			:: else
			fi
		fi;
		UNLOCK(object);
		object_put(ob)
	:: else -> break
	od;
	if
	:: old != NONE -> page_put(old)
	:: else
	fi;
	old = NONE; pg = NONE; ob = NONE; retry = false
}

/* Drops page @n: a flush, or the end of a put that failed. */
inline forget(n)
{
	object_find(ob);
	if
	:: ob != NONE ->
		LOCK(object);
		bare = false;
		if
		:: !o[ob].dead && o[ob].slot[n] != NONE ->
			pg = o[ob].slot[n];
			o[ob].slot[n] = NONE;
			lru_del(pg);
			bare = o[ob].slot[0] == NONE && o[ob].slot[1] == NONE
		:: else
		fi;
		UNLOCK(object);
		if
		:: pg != NONE -> page_put(pg)
		:: else
		fi;
		reap_if_empty(ob);
		object_put(ob)
	:: else
	fi;
	if
	:: n == 0 -> live = 0
	:: else
	fi;
	pg = NONE; ob = NONE
}

/* Takes @pg out of @ob if it is what is there: exclusive get and eviction. */
inline remove_page(n)
{
	LOCK(object);
	bare = false;
	taken = false;
#ifdef MUT_EVICT_IGNORES_DEAD
	if
	:: true ->
#else
	if
	:: !o[ob].dead && o[ob].slot[n] == pg ->
#endif
		o[ob].slot[n] = NONE;
		lru_del(pg);
		taken = true;
		bare = o[ob].slot[0] == NONE && o[ob].slot[1] == NONE
	:: else
	fi;
	UNLOCK(object);
	if
	:: taken -> page_put(pg); reap_if_empty(ob)
	:: else
	fi
}

/* The page pinned, outside of all locks; then its version is compared. */
inline get(exclusive)
{
	again = true;
	do
	:: again ->
		again = false;
		object_find(ob);
		if
		:: ob != NONE ->
			LOCK(object);
			if
			:: !o[ob].dead && o[ob].slot[0] != NONE ->
				pg = o[ob].slot[0];
#ifndef MUT_GET_WITHOUT_PIN
				IS_PAGE(pg);
				p[pg].refs++
#endif
			:: else
			fi;
			UNLOCK(object);
			if
			:: pg != NONE ->
				IS_PAGE(pg);
				assert(live != 0 && p[pg].version == live);
				if
				:: exclusive ->
					remove_page(0);
					if
					:: taken -> live = 0
					:: else -> again = true
					fi
				:: else
				fi;
#ifndef MUT_GET_WITHOUT_PIN
				page_put(pg)
#endif
			:: else -> live = 0 /* and nothing may bring it back */
			fi;
			object_put(ob)
		:: else -> live = 0
		fi;
		pg = NONE; ob = NONE
	:: else -> break
	od
}

/* Unhash and dead together, then drain alone. */
inline flush_object()
{
	LOCK(shard);
	ob = hash;
	if
	:: ob != NONE ->
		IS_OBJ(ob);
		LOCK(object);
#ifndef MUT_FLUSH_LEAVES_ALIVE
		o[ob].dead = true;
#endif
#ifndef MUT_FLUSH_LEAVES_HASHED
		hash = NONE;
#endif
		UNLOCK(object)
	:: else
	fi;
	UNLOCK(shard);
	if
	:: ob != NONE ->
		nr = 0;
		do
		:: nr < 2 ->
			pg = o[ob].slot[nr];
			if
			:: pg != NONE ->
				o[ob].slot[nr] = NONE;
#ifndef MUT_DRAIN_LEAVES_ON_LRU
				lru_del(pg);
#endif
				page_put(pg)
			:: else
			fi;
			nr++
		:: else -> break
		od;
		object_put(ob)
	:: else
	fi;
	pg = NONE; ob = NONE; nr = 0
}

#define LOCALS \
	byte ob = NONE, pg = NONE, old = NONE, nr = 0; \
	bool retry, bare, taken, again, mine

proctype owner()
{
	LOCALS;
	byte turn = 0, version = 0;

	do
	:: turn < 2 ->
		turn++;
		if
		:: version++; put(0, version)
		:: get(false)
		:: get(true); assert(live == 0)
		:: forget(0); get(false)
		:: true -> /* a put that the host refuses */
			live = 0;
#ifndef MUT_FAILED_PUT_KEEPS_OLD
			forget(0);
#endif
			get(false)
		fi
	:: else -> break
	od;
	get(false);
	running--
}

proctype other()
{
	LOCALS;
	byte turn = 0;

	do
	:: turn < 2 ->
		turn++;
		if
		:: flush_object()
		:: put(1, 9)
		:: forget(1)
		fi
	:: else -> break
	od;
	running--
}

proctype evictor()
{
	LOCALS;
	byte turn = 0;

	do
	:: turn < 2 ->
		turn++;
		LOCK(lru);
		d_step {
			pg = 0;
			do
			:: pg < PAGES && !p[pg].lru -> pg++
			:: else -> break
			od;
			if
			:: pg == PAGES -> pg = NONE
			:: else
			fi
		};
		if
		:: pg != NONE -> atomic {
			IS_PAGE(pg);
			ob = p[pg].obj;
			IS_OBJ(ob);
			p[pg].lru = false;
#ifndef MUT_EVICT_WITHOUT_PIN
			p[pg].refs++;
#endif
#ifndef MUT_EVICT_WITHOUT_OBJECT_REF
			o[ob].refs++
#endif
		}
		:: else
		fi;
		UNLOCK(lru);
		if
		:: pg != NONE ->
			IS_PAGE(pg);
			nr = p[pg].nr;
			assert(o[ob].alloc);
			remove_page(nr);
#ifndef MUT_EVICT_WITHOUT_PIN
			page_put(pg);
#endif
#ifndef MUT_EVICT_WITHOUT_OBJECT_REF
			object_put(ob)
#endif
		:: else
		fi;
		pg = NONE; ob = NONE; nr = 0
	:: else -> break
	od;
	running--
}

/* When all is over. */
init {
	byte i = 0, n = 0;

	atomic {
		run owner();
		run other();
		run evictor()
	};
	running == 0;
	d_step {
		do
		:: i < OBJS ->
			if
			:: o[i].alloc ->
				assert(hash == i && !o[i].dead && o[i].refs == 1);
				assert(o[i].slot[0] != NONE || o[i].slot[1] != NONE)
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < PAGES ->
			if
			:: p[i].alloc ->
				assert(p[i].refs == 1 && p[i].lru && p[i].obj == hash);
				assert(o[hash].slot[p[i].nr] == i);
				n++
			:: else -> assert(!p[i].lru)
			fi;
			i++
		:: else -> break
		od;
		assert((hash == NONE) == (n == 0))
	}
}
