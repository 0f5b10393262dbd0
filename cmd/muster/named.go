package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// fileMark is what tells one content of a file from another without reading it: an editor that writes in place changes the times,
// one that replaces the file its number. The zero value is that of what is no file.
type fileMark struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func markOf(path string) fileMark {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fileMark{}
	}
	return fileMark{uint64(st.Dev), uint64(st.Ino), int64(st.Size), st.Mtim, st.Ctim} //nolint:unconvert // types differ between systems
}

// fileMarks are those of a configuration and of the files that it names, by path.
type fileMarks map[string]fileMark

// maxNamed bounds how many paths are looked at: more than any configuration names.
const maxNamed = 20_000

// lookAt makes the fileMarks of a configuration, and of whatever in it may be the path of a file, be it there or not: a value that
// is none is found to be no file, and costs nothing. What a backend's own part names is the plugin's, which reads it at its start.
//
// The configuration need not be right: what it names may well be what is wrong.
func lookAt(file string) fileMarks {
	seen := fileMarks{file: markOf(file)}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return seen
	}
	data, err := strictyaml.ReadFile("", file, maxConfigurationLength)
	if err != nil {
		return seen
	}
	root, err := strictyaml.Parse(file, data)
	if err != nil {
		return seen
	}
	for key, n := range childrenOf(root) {
		if key != "backends" && key != "store" {
			seen.add(dir, n)
		}
	}
	return seen
}

func (s fileMarks) add(dir string, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Value != "" && len(n.Value) < unix.PathMax && len(s) < maxNamed {
		path := strictyaml.Below(dir, n.Value)
		if _, known := s[path]; !known {
			s[path] = markOf(path)
		}
	}
	for _, child := range n.Content {
		s.add(dir, child)
	}
}

// present are those that are files.
func (s fileMarks) present() fileMarks {
	there := maps.Clone(s)
	maps.DeleteFunc(there, func(_ string, p fileMark) bool { return p == fileMark{} })
	return there
}

// again looks at the same paths now.
func (s fileMarks) again() fileMarks {
	now := make(fileMarks, len(s))
	for path := range s {
		now[path] = markOf(path)
	}
	return now
}

// others are the files that are not as they were before, sorted.
func (s fileMarks) others(before fileMarks) []string {
	var changed []string
	for path, p := range s {
		if was, known := before[path]; known && was != p {
			changed = append(changed, path)
		}
	}
	slices.Sort(changed)
	return changed
}

// folders are where what becomes of the files is seen: the folder of each, and those of the symbolic links that lead to it, in any
// part of its path. In the place of one that is not there, the nearest above it is.
func (s fileMarks) folders() map[string]bool {
	all := map[string]bool{}
	for path := range s {
		if abs, err := filepath.Abs(path); err == nil {
			addFolders(all, abs, maxLinks)
		}
	}
	return all
}

// maxLinks is how many symbolic links one path may lead through; Linux follows 40.
const maxLinks = 40

func addFolders(all map[string]bool, path string, links int) {
	if links == 0 {
		return
	}
	for at := path; at != filepath.Dir(at); at = filepath.Dir(at) {
		above := filepath.Dir(at)
		if info, err := os.Lstat(at); err == nil && info.Mode()&os.ModeSymlink != 0 {
			all[above] = true
			if target, err := os.Readlink(at); err == nil {
				addFolders(all, filepath.Join(strictyaml.Below(above, target), path[len(at):]), links-1)
			}
			return
		}
	}
	for at := filepath.Dir(path); ; at = filepath.Dir(at) {
		if info, err := os.Stat(at); err == nil && info.IsDir() {
			all[at] = true
			return
		}
		if at == filepath.Dir(at) {
			return
		}
	}
}

// folderID tells one folder from another of its name.
type folderID struct{ dev, ino uint64 }

// folderOf is a folder's, zero for what is none.
func folderOf(path string) folderID {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return folderID{}
	}
	return folderID{uint64(st.Dev), uint64(st.Ino)} //nolint:unconvert // types differ between systems
}
