/* bench-floor ROOT SCRATCH PROGRAM [WORDS...]: the least that a rootless start can cost on this kernel, for scripts/bench.
 * One clone3(2) into every namespace, newuidmap and newgidmap side by side, an overlay of ROOT with its upper in SCRATCH,
 * /proc, /dev with devpts and six nodes, pivot_root(2), execve(2). It keeps no record, confines nothing and looks nothing up:
 * ids and ranges come in UID_MAP and GID_MAP, each "inner outer count inner outer count". */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int failed, const char *doing) {
  if (failed) {
    perror(doing);
    _exit(125);
  }
}

static void inside(const char *root, const char *scratch, char **program, int gate) {
  static const char *const nodes[] = {"null", "zero", "full", "random", "urandom", "tty"};
  char merged[512], options[2048], from[64], to[64], byte;
  check(read(gate, &byte, 1) != 1, "waiting for the ids");
  check(setresgid(0, 0, 0) || setresuid(0, 0, 0), "becoming root");
  check(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), "slave");
  snprintf(merged, sizeof merged, "%s/merged", scratch);
  snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work,userxattr", root, scratch, scratch);
  check(mount("overlay", merged, "overlay", 0, options) || chdir(merged), "overlay");
  check(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "proc");
  check(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755") || mkdir("dev/pts", 0755), "dev");
  check(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666"), "devpts");
  for (size_t at = 0; at < sizeof nodes / sizeof *nodes; at++) {
    snprintf(from, sizeof from, "/dev/%s", nodes[at]);
    snprintf(to, sizeof to, "dev/%s", nodes[at]);
    int fd = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
    check(fd < 0 || close(fd) || mount(from, to, NULL, MS_BIND, NULL), from);
  }
  check(syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"), "pivot_root");
  check(sethostname("floor", 5), "host name");
  execv(program[0], program);
  check(1, program[0]);
}

/* Starts a program with the process number and the six numbers of a map; vfork(2), as its one purpose is an exec. */
static pid_t helper(const char *path, const char *pid, const char *map) {
  char text[128], *words[9] = {(char *)path, (char *)pid}, *rest = NULL;
  snprintf(text, sizeof text, "%s", map ? map : "");
  words[2] = strtok_r(text, " ", &rest);
  for (int at = 3; at < 8; at++) words[at] = strtok_r(NULL, " ", &rest);
  pid_t child = vfork();
  if (child == 0) {
    execv(path, words);
    _exit(127);
  }
  return child;
}

int main(int count, char **words) {
  if (count < 4) {
    fprintf(stderr, "usage: bench-floor ROOT SCRATCH PROGRAM [WORDS...]\n");
    return 2;
  }
  int gate[2], status;
  check(pipe2(gate, O_CLOEXEC), "pipe");
  struct clone_args args = {.exit_signal = SIGCHLD};
  args.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  long pid = syscall(SYS_clone3, &args, sizeof args);
  check(pid < 0, "clone3");
  if (pid == 0) inside(words[1], words[2], words + 3, gate[0]);
  char number[32];
  snprintf(number, sizeof number, "%ld", pid);
  pid_t both[] = {helper("/usr/bin/newuidmap", number, getenv("UID_MAP")), helper("/usr/bin/newgidmap", number, getenv("GID_MAP"))};
  for (int at = 0; at < 2; at++) check(waitpid(both[at], &status, 0) < 0 || status != 0, "mapping the ids");
  check(write(gate[1], "x", 1) != 1, "letting it go on");
  check(waitpid((pid_t)pid, &status, 0) < 0, "waiting");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
