// The search of the pages: a section is found when it holds every word that is typed, wherever they stand; names and headings come first.
// Only when nothing does, Fuse, which forgives slips of the finger but wants the words side by side, has its turn.
window.Fuse = ((Fuzzy) => class {
  constructor(list, options) {
    this.list = list.map((item) => ({ item, page: item.title.toLowerCase(), head: (item.section || '').toLowerCase(), text: item.text.toLowerCase() }));
    this.fuzzy = new Fuzzy(list, options);
  }
  search(query, options = {}) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean), whole = words.join(' '), hits = [];
    const begins = (text, word) => text.split(/[^\p{L}\p{N}]+/u).some((w) => w.startsWith(word));
    for (const e of this.list) {
      let score = (e.head == whole || e.page == whole && !e.head) * 200 + e.text.includes(whole) * 10;
      for (const w of words) {
        const found = (e.head == w) * 60 + e.head.includes(w) * 20 + begins(e.head, w) * 20 + e.page.includes(w) * 15 + e.text.includes(w) * 4 + begins(e.text, w) * 4;
        if (!found) { score = -1; break; }
        score += found;
      }
      if (score > 0) hits.push({ item: e.item, score });
    }
    if (!hits.length) return this.fuzzy.search(query, options);
    return hits.sort((a, b) => b.score - a.score).slice(0, options.limit || 20);
  }
})(window.Fuse);
