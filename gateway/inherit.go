package gateway

// Heir is a Stage that remembers something between requests, such as who guessed wrongly how often. Inherit is called before it is
// asked anything, with the stage that had its place in the Runtime before, which goes on being asked for a while.
type Heir interface {
	Stage
	Inherit(from Stage)
}

// Inherit gives the stages of a pipeline what those of another one remember: the first of a name what the first of that name does,
// and so on.
func (p Pipeline) Inherit(from Pipeline) {
	before := map[string][]Stage{}
	from.Stages(func(s Stage) { before[s.Name()] = append(before[s.Name()], s) })
	p.Stages(func(s Stage) {
		left := before[s.Name()]
		if len(left) == 0 {
			return
		}
		before[s.Name()] = left[1:]
		if h, ok := s.(Heir); ok {
			h.Inherit(left[0])
		}
	})
}
