package host

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// ErrOtherwise says that a plugin describes itself otherwise than it did before, or than Config.Assume: it is not run.
var ErrOtherwise = errors.New("it describes itself otherwise")

// unanswered is the error of a start whose plugin runs, and says that its CA does not answer.
type unanswered struct{ error }

func (e unanswered) Unwrap() error { return e.error }

// IsUnanswered reports whether an error of Start says that the plugin's process runs and answers, and that Configure was UNAVAILABLE:
// the CA behind it does not answer.
func IsUnanswered(err error) bool {
	_, ok := errors.AsType[unanswered](err)
	return ok
}

// judged marks an error of Configure. A process that has died looks the same, UNAVAILABLE, but answers nothing any more.
func (i *instance) judged(ctx context.Context, err error) error {
	if status.Code(err) != codes.Unavailable || i.api.Validate(ctx, i.cfg.Config) != nil {
		return err
	}
	return unanswered{err}
}

// describes reports whether d is what the plugin was known by. The version of one that was assumed may be another: the program can have
// been updated since.
func (p *Plugin) describes(d *backend.Description) error {
	known := *p.description
	if p.assumed {
		known.Version = d.Version
	}
	if reflect.DeepEqual(*d, known) {
		return nil
	}
	return fmt.Errorf("%w: as %+v now, as %+v before", ErrOtherwise, *d, *p.description)
}

// assume has a plugin that could not be configured live all the same: none runs, and it is launched again until one does.
func (p *Plugin) assume(why error) {
	p.description, p.assumed, p.reason = p.cfg.Assume, true, why
	p.cfg.Log.Error("the plugin runs, and its CA does not answer: it is started again until it does", "error", why)
	life, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() {
		failures := 1
		p.supervise(life, p.restart(life, &failures))
	}()
}

// Assumed reports whether the plugin was started without having described itself: Description is Config.Assume.
func (p *Plugin) Assumed() bool { return p.assumed }

// Hold keeps all calls from the plugin but Inquire: each fails at once, not asked, and Healthy says why. A second Hold changes what it says.
func (p *Plugin) Hold(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = why
}

// Unhold ends Hold.
func (p *Plugin) Unhold() { p.Hold(nil) }

// Held is what Hold was given, nil when calls go through.
func (p *Plugin) Held() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// Inquire is CACertificates, which no Hold keeps, and which waits for no restart: whoever asks wants to know whether the plugin can be used. Its error
// is ErrOtherwise while that keeps the plugin from running.
func (p *Plugin) Inquire(ctx context.Context) ([]backend.CA, error) {
	p.mu.Lock()
	down := p.current == nil
	reason := p.reason
	p.mu.Unlock()
	if down {
		return nil, fmt.Errorf("%s: the plugin does not run: %w", p.cfg.Name, reason)
	}
	return called(p, ctx, "CACertificates", true, func(ctx context.Context, api *backend.Client) ([]backend.CA, error) {
		return api.CACertificates(ctx)
	})
}
