/* The floor: what one container test costs in system calls alone.
 *
 *     cc -O2 -o floor floor.c
 *     ./floor [-n ROUNDS] [-w WARMUP] [-b BASE] [-c COUNT] [-1 DIR]... [-2 DIR] [-p COMMAND] [-t BODY] [-s] LOWER...
 *
 * Each round makes a container as pytest-rootfs does (docs/design.md, "Starting a container"), runs COMMAND
 * (default /bin/true) in it and removes everything. Prints one JSON object: microseconds for each phase, minimum
 * and median. LOWER are the read-only layers, top first; each must be readable for the mapped ids.
 *
 *   -b BASE -c COUNT   ids of the outer user namespace. Root: 0.. -> BASE.. . Others: 0 -> self, 1.. -> BASE.. by
 *                      newuidmap; without -b only 0 is mapped
 *   -1 DIR             cgroup v1: a group for each round below DIR, joined by the command; repeat for each controller
 *   -2 DIR             cgroup v2: the same below DIR, joined by clone3(CLONE_INTO_CGROUP)
 *   -t BODY            microseconds that pass in the container before the command, and do not count
 *   -s                 print every sample, not only minimum and median
 *
 * Two processes: `main` stays outside (it writes the id maps and owns the cgroup folders), the spawner lives in the
 * outer user namespace and measures. Every call is checked; the first failure ends the run with status 1.
 * Needs kernel 6.15: a detached tmpfs as overlay's upper, layers by descriptor.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* <sys/mount.h> and <linux/mount.h> cannot be included together before glibc 2.37. */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);
#define MNT_DETACH 2

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

enum { MAX_LOWER = 256, MAX_V1 = 8 };
enum phase {
    /* the spawner's, in order */
    CGROUP_MAKE, TREES, CLONE, MAPS, INIT, RUN, CLOSE, CGROUP_REMOVE,
    /* parts of INIT, told by the container in its ready message */
    INIT_WAKE, INIT_NET, INIT_ATTACH, INIT_KERNEL_FS, INIT_DEV, INIT_MASKS, INIT_PIVOT, INIT_REST,
    TOTAL, PHASES
};
static const char *const phase_names[PHASES] = {
    "cgroup_make", "trees", "clone", "maps", "init", "run", "close", "cgroup_remove",
    "init.wake", "init.loopback", "init.attach", "init.proc_sys", "init.dev", "init.masks", "init.pivot", "init.rest",
    "total",
};
enum { INIT_PARTS = TOTAL - INIT_WAKE };

static struct {
    int rounds, warmup, body_us;
    unsigned base, count;
    const char *command;
    bool all_samples;
    const char *lower_paths[MAX_LOWER];
    int lower_fds[MAX_LOWER], lowers;
    const char *v1_parents[MAX_V1], *v2_parent;
    int v1_fds[MAX_V1], v1s, v2_fd;
    char group[64];        /* the folder that main makes in each parent */
    char inner_map[128];   /* identity onto the outer namespace, extent by extent */
} run = {.rounds = 200, .warmup = 10, .count = 65536, .command = "/bin/true", .v2_fd = -1};

struct container {
    int pid, pidfd, control;
    int tmpfs_fd, overlay_fd, upper_fd;
    int v1_fds[MAX_V1], v1_tasks[MAX_V1], v2_fd;
    char name[32];
};

static void die(const char *format, ...) {
    int saved = errno;
    va_list arguments;
    va_start(arguments, format);
    fputs("floor: ", stderr);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, ": %s\n", strerror(saved));
    va_end(arguments);
    exit(1);
}

/* The value of a call that must not fail; its source text is the message. */
#define must(call) \
    ({ \
        __auto_type result_ = (call); \
        if (result_ < 0) die("%s:%d: %s", __FILE__, __LINE__, #call); \
        result_; \
    })

static double now_us(void) {
    struct timespec t;
    must(clock_gettime(CLOCK_MONOTONIC, &t));
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void write_text(int dir_fd, const char *path, const char *text) {
    int fd = openat(dir_fd, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) die("open %s", path);
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text)) die("write %s to %s", text, path);
    must(close(fd));
}

static int clone3(uint64_t flags, int *pidfd, int cgroup_fd) {
    struct clone_args args = {
        .flags = flags | (pidfd ? CLONE_PIDFD : 0) | (cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uintptr_t)pidfd, .exit_signal = SIGCHLD, .cgroup = cgroup_fd >= 0 ? cgroup_fd : 0,
    };
    return syscall(SYS_clone3, &args, sizeof args);
}

/* ------------------------------------------------------------------ messages */

static void send_bytes(int socket, const void *bytes, size_t size, const int *fds, int count) {
    char room[CMSG_SPACE(4 * sizeof(int))] = {0};
    struct iovec part = {(void *)bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        message.msg_control = room;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    }
    if (sendmsg(socket, &message, MSG_NOSIGNAL) != (ssize_t)size) die("sendmsg");
}

static ssize_t receive_bytes(int socket, void *bytes, size_t size, int *fds, int count) {
    char room[CMSG_SPACE(4 * sizeof(int))];
    struct iovec part = {bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    ssize_t got = must(recvmsg(socket, &message, MSG_CMSG_CLOEXEC));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (got && count) {
        if (!header || header->cmsg_len != CMSG_LEN(count * sizeof(int))) die("message without its descriptors");
        memcpy(fds, CMSG_DATA(header), count * sizeof(int));
    }
    return got;
}

/* ------------------------------------------------------------------ the container, inside */

static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
static const unsigned device_minors[] = {3, 5, 7, 8, 9, 0};   /* major 1; tty is 5:0 */
enum { DEVICES = sizeof devices / sizeof *devices };

static void check_magic(const char *path, long magic) {
    struct statfs found;
    must(statfs(path, &found));
    if (found.f_type != magic) die("%s is not the file system that was mounted", path);
}

static void loopback_up(void) {
    int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    must(ioctl(fd, SIOCSIFFLAGS, &request));
    must(close(fd));
}

static void mount_kernel_filesystems(void) {
    must(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    check_magic("proc", PROC_SUPER_MAGIC);
    must(mount("sysfs", "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    check_magic("sys", SYSFS_MAGIC);
}

static void make_dev(void) {
    must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k"));
    for (int i = 0; i < DEVICES; i++) {
        char source[32], target[32];
        snprintf(source, sizeof source, "/dev/%s", devices[i]);
        snprintf(target, sizeof target, "dev/%s", devices[i]);
        must(close(must(open(target, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644))));
        must(mount(source, target, NULL, MS_BIND, NULL));
        struct stat found;
        must(stat(target, &found));
        dev_t expected = i == DEVICES - 1 ? makedev(5, 0) : makedev(1, device_minors[i]);
        if (!S_ISCHR(found.st_mode) || found.st_rdev != expected) die("%s is not the device", target);
    }
    must(mkdir("dev/pts", 0755));
    must(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
    must(mkdir("dev/shm", 01777));
    must(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m"));
    must(symlink("pts/ptmx", "dev/ptmx"));
    must(symlink("/proc/self/fd", "dev/fd"));
    must(symlink("/proc/self/fd/0", "dev/stdin"));
    must(symlink("/proc/self/fd/1", "dev/stdout"));
    must(symlink("/proc/self/fd/2", "dev/stderr"));
}

static void hide(void) {
    static const char *const files[] = {"proc/kcore", "proc/keys", "proc/timer_list", "proc/sysrq-trigger"};
    static const char *const folders[] = {"proc/acpi", "proc/scsi", "sys/firmware", "proc/asound"};
    static const char *const fixed[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys"};
    const char *empty = NULL;
    for (int i = 0; i < 4; i++)
        if (mount("dev/null", files[i], NULL, MS_BIND, NULL) && errno != ENOENT) die("hide %s", files[i]);
    for (int i = 0; i < 4; i++) {   /* one empty file system for all of them, as runc does */
        int failed = empty ? mount(empty, folders[i], NULL, MS_BIND, NULL)
                           : mount("tmpfs", folders[i], "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0");
        if (failed && errno != ENOENT) die("hide %s", folders[i]);
        if (!failed && !empty) empty = folders[i];
    }
    for (int i = 0; i < 4; i++) {
        must(mount(fixed[i], fixed[i], NULL, MS_BIND | MS_REC, NULL));
        must(mount(NULL, fixed[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    }
}

#define BIT(capability) (UINT64_C(1) << (capability))
static const uint64_t kept_capabilities =   /* the eleven that podman grants */
    BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) | BIT(CAP_KILL) | BIT(CAP_NET_BIND_SERVICE) |
    BIT(CAP_SETFCAP) | BIT(CAP_SETGID) | BIT(CAP_SETPCAP) | BIT(CAP_SETUID) | BIT(CAP_SYS_CHROOT);

static void drop_bounding_set(void) {
    for (int capability = 0; capability < 64; capability++)
        if (!(kept_capabilities & BIT(capability)) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)) {
            if (errno == EINVAL && capability > CAP_AUDIT_READ) return;   /* past the last that this kernel knows */
            die("drop capability %d", capability);
        }
}

static int rising(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

struct command {
    const struct container *container;
    char *argv[2];
    int stdin_fd, stdout_fd, stderr_fd;
    bool has_groups;
    int error;
};

/* Runs on its own stack in the init's memory, as posix_spawn does; credentials belong to the task, so raw calls. */
static int command_main(void *argument) {
    struct command *c = argument;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    uint32_t low = kept_capabilities, high = kept_capabilities >> 32;
    struct __user_cap_data_struct data[2] = {{low, low, 0}, {high, high, 0}};
    sigset_t none;
    sigemptyset(&none);
    static char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                        "HOME=/root", "USER=root", "TERM=dumb", "LANG=C.UTF-8", "TZ=UTC", NULL};
    for (int i = 0; i < run.v1s; i++)
        if (write(c->container->v1_tasks[i], "0", 1) != 1) goto failed;
    if (setsid() < 0 || dup2(c->stdin_fd, 0) < 0 || dup2(c->stdout_fd, 1) < 0 || dup2(c->stderr_fd, 2) < 0 ||
        chdir("/") || (c->has_groups && syscall(SYS_setgroups, 0, NULL)) || syscall(SYS_setresgid, 0, 0, 0) ||
        syscall(SYS_setresuid, 0, 0, 0) || syscall(SYS_capset, &header, data) ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || sigprocmask(SIG_SETMASK, &none, NULL) ||
        syscall(SYS_close_range, 3, ~0U, 0))
        goto failed;
    execve(c->argv[0], c->argv, environment);
failed:
    c->error = errno;
    _exit(127);
}

/* Starts the command, waits for it and returns its wait status. */
static int run_command(struct command *command) {
    static char stack[65536] __attribute__((aligned(16)));
    int status;
    command->error = 0;
    int pid = must(clone(command_main, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, command));
    if (command->error) {
        errno = command->error;
        die("start %s", command->argv[0]);
    }
    if (must(waitpid(pid, &status, 0)) != pid) die("waitpid");
    return status;
}

static void make_root(const struct container *c, double *marks) {
    must(setresgid(0, 0, 0));
    must(setresuid(0, 0, 0));
    *marks++ = now_us();
    loopback_up();
    *marks++ = now_us();
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    must(syscall(SYS_move_mount, c->overlay_fd, "", AT_FDCWD, "/tmp", MOVE_MOUNT_F_EMPTY_PATH));
    must(chdir("/tmp"));
    *marks++ = now_us();
    mount_kernel_filesystems();
    *marks++ = now_us();
    make_dev();
    *marks++ = now_us();
    write_text(AT_FDCWD, "proc/sys/user/max_user_namespaces", "0");
    hide();
    *marks++ = now_us();
    must(syscall(SYS_pivot_root, ".", "."));
    must(umount2(".", MNT_DETACH));
    must(chdir("/"));
    *marks = now_us();
}

/* Closes every descriptor but the standard ones and those that the init still needs. */
static void close_all_others(const struct container *c) {
    int kept[MAX_V1 + 2] = {c->control, c->overlay_fd}, count = 2;
    unsigned first = 3;
    for (int i = 0; i < run.v1s; i++) kept[count++] = c->v1_tasks[i];
    qsort(kept, count, sizeof *kept, rising);
    for (int i = 0; i < count; i++) {
        if (kept[i] > (int)first) must(syscall(SYS_close_range, first, kept[i] - 1, 0));
        first = kept[i] + 1;
    }
    must(syscall(SYS_close_range, first, ~0U, 0));
}

static void init_main(struct container *c) {
    double marks[INIT_PARTS];
    char byte;
    close_all_others(c);
    if (receive_bytes(c->control, &byte, 1, NULL, 0) != 1) _exit(0);
    make_root(c, marks);
    must(close(c->overlay_fd));
    must(sethostname("rootfs", 6));
    must(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}));
    drop_bounding_set();
    struct command command = {.container = c, .has_groups = run.base != 0};
    must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
    marks[INIT_PARTS - 1] = now_us();
    send_bytes(c->control, marks, sizeof marks, NULL, 0);
    char program[PATH_MAX];
    int fds[3];
    ssize_t size;
    while ((size = receive_bytes(c->control, program, sizeof program - 1, fds, 3)) > 0) {
        program[size] = 0;
        command.argv[0] = program;
        command.stdin_fd = fds[0], command.stdout_fd = fds[1], command.stderr_fd = fds[2];
        int status = run_command(&command);
        for (int i = 0; i < 3; i++) must(close(fds[i]));
        send_bytes(c->control, &status, sizeof status, NULL, 0);
    }
    _exit(0);
}

/* ------------------------------------------------------------------ the spawner */

static void make_cgroups(struct container *c) {
    for (int i = 0; i < run.v1s; i++) {
        must(mkdirat(run.v1_fds[i], c->name, 0755));
        c->v1_fds[i] = must(openat(run.v1_fds[i], c->name, O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!faccessat(c->v1_fds[i], "pids.max", W_OK, 0)) write_text(c->v1_fds[i], "pids.max", "1024");
        c->v1_tasks[i] = must(openat(c->v1_fds[i], "tasks", O_WRONLY | O_CLOEXEC));
    }
    c->v2_fd = -1;
    if (run.v2_fd < 0) return;
    must(mkdirat(run.v2_fd, c->name, 0755));
    c->v2_fd = must(openat(run.v2_fd, c->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!faccessat(c->v2_fd, "pids.max", W_OK, 0)) write_text(c->v2_fd, "pids.max", "1024");
}

static int remove_cgroup(int parent_fd, const char *name) {
    int tries = 0;
    while (unlinkat(parent_fd, name, AT_REMOVEDIR)) {
        if (errno != EBUSY || ++tries > 1000) die("rmdir %s", name);
        must(usleep(100));
    }
    return tries;
}

static int remove_cgroups(struct container *c) {
    int tries = 0;
    for (int i = 0; i < run.v1s; i++) {
        must(close(c->v1_tasks[i]));
        must(close(c->v1_fds[i]));
        tries += remove_cgroup(run.v1_fds[i], c->name);
    }
    if (c->v2_fd >= 0) {
        must(close(c->v2_fd));
        tries += remove_cgroup(run.v2_fd, c->name);
    }
    return tries;
}

static void configure(int fs_fd, int verb, const char *key, const char *value, int aux) {
    if (!syscall(SYS_fsconfig, fs_fd, verb, key, value, aux)) return;
    int saved = errno;
    char reason[512];   /* the kernel's own words, one message a read */
    for (ssize_t size; (size = read(fs_fd, reason, sizeof reason)) > 0;) fprintf(stderr, "%.*s\n", (int)size, reason);
    errno = saved;
    die("fsconfig %s %s", key ? key : "create", value ? value : "");
}

/* The layer of the run-time's own files and mount points: the top lower folder. */
static int make_init_layer(int tmpfs_fd) {
    static const char *const folders[] = {"proc", "sys", "dev", "tmp", "etc"};
    static const char *const files[][2] = {{"etc/hosts", "127.0.0.1 localhost rootfs\n"}, {"etc/hostname", "rootfs\n"},
                                           {"etc/resolv.conf", ""}};
    must(mkdirat(tmpfs_fd, "init", 0755));
    int fd = must(openat(tmpfs_fd, "init", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) must(mkdirat(fd, folders[i], 0755));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        int file = must(openat(fd, files[i][0], O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644));
        if (write(file, files[i][1], strlen(files[i][1])) < 0) die("write %s", files[i][0]);
        must(close(file));
    }
    return fd;
}

static void make_trees(struct container *c) {
    int fs_fd = must(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
    configure(fs_fd, FSCONFIG_SET_STRING, "size", "1g", 0);
    configure(fs_fd, FSCONFIG_SET_STRING, "mode", "0700", 0);
    configure(fs_fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    c->tmpfs_fd = must(syscall(SYS_fsmount, fs_fd, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID));
    must(close(fs_fd));
    must(mkdirat(c->tmpfs_fd, "upper", 0755));
    must(mkdirat(c->tmpfs_fd, "work", 0755));
    c->upper_fd = must(openat(c->tmpfs_fd, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    int work_fd = must(openat(c->tmpfs_fd, "work", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    int init_fd = make_init_layer(c->tmpfs_fd);

    static const char *const options[][2] = {{"redirect_dir", "nofollow"}, {"metacopy", "off"}, {"index", "off"}, {"xino", "off"}};
    fs_fd = must(syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC));
    configure(fs_fd, FSCONFIG_SET_FLAG, "userxattr", NULL, 0);
    for (int i = 0; i < 4; i++) configure(fs_fd, FSCONFIG_SET_STRING, options[i][0], options[i][1], 0);
    configure(fs_fd, FSCONFIG_SET_FD, "upperdir", NULL, c->upper_fd);
    configure(fs_fd, FSCONFIG_SET_FD, "workdir", NULL, work_fd);
    configure(fs_fd, FSCONFIG_SET_FD, "lowerdir+", NULL, init_fd);
    for (int i = 0; i < run.lowers; i++) configure(fs_fd, FSCONFIG_SET_FD, "lowerdir+", NULL, run.lower_fds[i]);
    configure(fs_fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    c->overlay_fd = must(syscall(SYS_fsmount, fs_fd, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID));
    must(close(fs_fd));
    must(close(init_fd));
    must(close(work_fd));
}

static void write_maps(int pid) {
    char folder[32];
    snprintf(folder, sizeof folder, "/proc/%d", pid);
    int fd = must(open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!run.base) write_text(fd, "setgroups", "deny");
    write_text(fd, "uid_map", run.inner_map);
    write_text(fd, "gid_map", run.inner_map);
    must(close(fd));
}

static void use(struct container *c) {
    int out[2], err[2], status;
    char buffer[4096];
    must(pipe2(out, O_CLOEXEC));
    must(pipe2(err, O_CLOEXEC));
    int null_fd = must(open("/dev/null", O_RDONLY | O_CLOEXEC));
    send_bytes(c->control, run.command, strlen(run.command), (int[]){null_fd, out[1], err[1]}, 3);
    must(close(null_fd));
    must(close(out[1]));
    must(close(err[1]));
    struct pollfd streams[2] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
    for (int open_streams = 2; open_streams;) {
        must(poll(streams, 2, 10000) ?: -1);
        for (int i = 0; i < 2; i++)
            if (streams[i].revents && must(read(streams[i].fd, buffer, sizeof buffer)) == 0) {
                must(close(streams[i].fd));
                streams[i].fd = -1;
                open_streams--;
            }
    }
    if (receive_bytes(c->control, &status, sizeof status, NULL, 0) != sizeof status) die("the container died");
    if (status) {
        errno = 0;
        die("%s: wait status %#x", run.command, status);
    }
}

static void end(struct container *c) {
    siginfo_t info;
    must(syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0));
    must(waitid(P_PIDFD, c->pidfd, &info, WEXITED));
    must(close(c->pidfd));
    must(close(c->control));
    must(close(c->upper_fd));
    must(close(c->overlay_fd));
    must(close(c->tmpfs_fd));
}

static int one_round(int number, double *took) {
    struct container c;
    double marks[INIT_PARTS], t[CGROUP_REMOVE + 2];
    int ends[2];
    snprintf(c.name, sizeof c.name, "c%d", number);

    t[CGROUP_MAKE] = now_us();
    make_cgroups(&c);
    t[TREES] = now_us();
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    make_trees(&c);
    t[CLONE] = now_us();
    c.control = ends[1];
    c.pid = must(clone3(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                        CLONE_NEWCGROUP, &c.pidfd, c.v2_fd));
    if (!c.pid) init_main(&c);
    must(close(ends[1]));
    c.control = ends[0];
    t[MAPS] = now_us();
    write_maps(c.pid);
    t[INIT] = now_us();
    send_bytes(c.control, "G", 1, NULL, 0);
    if (receive_bytes(c.control, marks, sizeof marks, NULL, 0) != sizeof marks) die("the container did not start");
    t[RUN] = now_us();
    if (run.body_us) must(usleep(run.body_us));
    double body_us = now_us() - t[RUN];
    use(&c);
    t[CLOSE] = now_us() - body_us;
    end(&c);
    t[CGROUP_REMOVE] = now_us() - body_us;
    int tries = remove_cgroups(&c);
    t[CGROUP_REMOVE + 1] = now_us() - body_us;

    for (int i = 0; i <= CGROUP_REMOVE; i++) took[i] = t[i + 1] - t[i];
    for (int i = 0; i < INIT_PARTS; i++) took[INIT_WAKE + i] = marks[i] - (i ? marks[i - 1] : t[INIT]);
    took[TOTAL] = t[CGROUP_REMOVE + 1] - t[CGROUP_MAKE];
    return tries;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_report(double *samples, int busy) {
    double *column = calloc(run.rounds, sizeof *column);
    if (!column) die("calloc");
    printf("{\"rounds\": %d, \"lowers\": %d, \"v1\": %d, \"v2\": %s, \"busy_retries\": %d, \"phases_us\": {", run.rounds,
           run.lowers, run.v1s, run.v2_fd >= 0 ? "true" : "false", busy);
    for (int phase = 0; phase < PHASES; phase++) {
        printf("%s\"%s\": {", phase ? ", " : "", phase_names[phase]);
        if (run.all_samples) printf("\"samples\": [");
        for (int i = 0; i < run.rounds; i++) {
            column[i] = samples[i * PHASES + phase];
            if (run.all_samples) printf("%s%.1f", i ? ", " : "", column[i]);
        }
        if (run.all_samples) printf("], ");
        qsort(column, run.rounds, sizeof *column, ascending);
        printf("\"min\": %.1f, \"median\": %.1f}", column[0], column[run.rounds / 2]);
    }
    printf("}}\n");
    free(column);
}

/* Overlay takes layers only from a mount namespace that the caller administers. Root clones them outside, because in
 * the new user namespace nobody may pass the folders above them, and attaches the clones inside; anyone else may not
 * clone outside, but owns those folders. */
static void open_lowers(void) {
    for (int i = 0; i < run.lowers; i++) {
        run.lower_fds[i] = geteuid() ? open(run.lower_paths[i], O_PATH | O_DIRECTORY | O_CLOEXEC)
                                     : syscall(SYS_open_tree, AT_FDCWD, run.lower_paths[i], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (run.lower_fds[i] < 0) die("%s", run.lower_paths[i]);
    }
}

static void attach_lowers(void) {
    for (int i = 0; i < run.lowers; i++)
        must(syscall(SYS_move_mount, run.lower_fds[i], "", AT_FDCWD, "/tmp", MOVE_MOUNT_F_EMPTY_PATH));
}

static void spawner_main(int control) {
    char byte;
    bool is_root = !geteuid();
    must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
    if (is_root) open_lowers();
    must(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    if (!is_root) open_lowers();
    send_bytes(control, "u", 1, NULL, 0);
    if (receive_bytes(control, &byte, 1, NULL, 0) != 1) exit(1);
    must(setresgid(0, 0, 0));
    must(setresuid(0, 0, 0));
    if (run.base) must(setgroups(0, NULL));
    must(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));   /* setresuid cleared it; /proc/CHILD/uid_map would be the host root's */
    must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    if (is_root) attach_lowers();
    umask(0);
    double *samples = calloc((size_t)run.rounds * PHASES, sizeof *samples), ignored[PHASES];
    int busy = 0;
    if (!samples) die("calloc");
    for (int i = 0; i < run.warmup; i++) one_round(i, ignored);
    for (int i = 0; i < run.rounds; i++) busy += one_round(i, samples + i * PHASES);
    print_report(samples, busy);
    exit(0);
}

/* ------------------------------------------------------------------ main: outside */

static int make_group(const char *parent, int owner) {
    int parent_fd = must(open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC));
    must(mkdirat(parent_fd, run.group, 0755));
    int fd = must(openat(parent_fd, run.group, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    must(close(parent_fd));
    static const char *const delegated[] = {".", "cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"};
    for (int i = 0; owner && i < 5; i++)
        if (fchownat(fd, delegated[i], owner, owner, 0) && errno != ENOENT) die("chown %s/%s", parent, delegated[i]);
    return fd;
}

static void make_groups(void) {
    int owner = geteuid() ? 0 : run.base;
    snprintf(run.group, sizeof run.group, "floor-%d", getpid());
    for (int i = 0; i < run.v1s; i++) run.v1_fds[i] = make_group(run.v1_parents[i], owner);
    if (!run.v2_parent) return;
    run.v2_fd = make_group(run.v2_parent, owner);
    int fd = openat(run.v2_fd, "cgroup.subtree_control", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || (write(fd, "+pids", 5) < 0 && errno != EINVAL && errno != ENOENT)) die("enable the pids controller");
    must(close(fd));
    must(mkdirat(run.v2_fd, "spawner", 0755));
}

/* A spawner that was killed leaves the group of its last round, and perhaps that round's processes, dying. */
static void remove_group(const char *parent) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", parent, run.group);
    DIR *folder = opendir(path);
    if (!folder) die("%s", path);
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.') remove_cgroup(dirfd(folder), entry->d_name);
    must(closedir(folder));
    remove_cgroup(AT_FDCWD, path);
}

static void remove_groups(void) {
    if (run.v2_fd >= 0) remove_group(run.v2_parent);
    for (int i = 0; i < run.v1s; i++) remove_group(run.v1_parents[i]);
}

static void write_outer_map(int pid) {
    char folder[32], text[96];
    snprintf(folder, sizeof folder, "/proc/%d", pid);
    int fd = must(open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC));
    bool is_root = !geteuid();
    if (is_root) {
        snprintf(text, sizeof text, "0 %u %u", run.base, run.count);
        write_text(fd, "uid_map", text);
        write_text(fd, "gid_map", text);
    } else if (run.base) {
        for (int i = 0; i < 2; i++) {
            snprintf(text, sizeof text, "new%cidmap %d 0 %u 1 1 %u %u", "ug"[i], pid, i ? getegid() : geteuid(), run.base,
                     run.count);
            if (system(text)) die("%s", text);
        }
    } else {
        write_text(fd, "setgroups", "deny");
        snprintf(text, sizeof text, "0 %u 1", geteuid());
        write_text(fd, "uid_map", text);
        snprintf(text, sizeof text, "0 %u 1", getegid());
        write_text(fd, "gid_map", text);
    }
    must(close(fd));
}

/* Gives the spawner its ids and its cgroup. */
static void admit(int pid) {
    char text[16];
    write_outer_map(pid);
    snprintf(text, sizeof text, "%d", pid);
    if (run.v2_fd >= 0) write_text(run.v2_fd, "spawner/cgroup.procs", text);
    exit(0);
}

static volatile pid_t spawner;

static void stop(int signal_number) {   /* main itself goes on, to remove the groups */
    (void)signal_number;
    kill(spawner, SIGKILL);
}

static int number(const char *text) {
    char *rest;
    errno = 0;
    long value = strtol(text, &rest, 10);
    if (errno || *rest || rest == text || value < 0 || value > INT_MAX) die("%s is not a number", text);
    return value;
}

static void parse(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "n:t:w:b:c:1:2:p:s")) != -1)
        switch (option) {
        case 'n': run.rounds = number(optarg); break;
        case 't': run.body_us = number(optarg); break;
        case 'w': run.warmup = number(optarg); break;
        case 'b': run.base = number(optarg); break;
        case 'c': run.count = number(optarg); break;
        case '1': if (run.v1s < MAX_V1) run.v1_parents[run.v1s++] = optarg; break;
        case '2': run.v2_parent = optarg; break;
        case 'p': run.command = optarg; break;
        case 's': run.all_samples = true; break;
        default: exit(2);
        }
    if (optind == argc || argc - optind > MAX_LOWER || !run.rounds) {
        fputs("usage: floor [-n ROUNDS] [-w WARMUP] [-b BASE] [-c COUNT] [-1 DIR]... [-2 DIR] [-p COMMAND] [-t BODY] [-s] LOWER...\n", stderr);
        exit(2);
    }
    if (!geteuid() && !run.base) run.base = 1000000;
    for (; optind < argc; optind++) run.lower_paths[run.lowers++] = argv[optind];
    if (!geteuid()) snprintf(run.inner_map, sizeof run.inner_map, "0 0 %u", run.count);
    else if (run.base) snprintf(run.inner_map, sizeof run.inner_map, "0 0 1\n1 1 %u", run.count);
    else snprintf(run.inner_map, sizeof run.inner_map, "0 0 1");
}

int main(int argc, char **argv) {
    int ends[2], status;
    char byte;
    parse(argc, argv);
    make_groups();
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    int pid = must(fork());
    if (!pid) {
        must(close(ends[0]));
        spawner_main(ends[1]);
    }
    must(close(ends[1]));
    spawner = pid;
    must(signal(SIGINT, stop) == SIG_ERR ? -1 : 0);
    must(signal(SIGTERM, stop) == SIG_ERR ? -1 : 0);
    if (receive_bytes(ends[0], &byte, 1, NULL, 0) == 1) {
        int helper = must(fork());   /* so that main outlives a failure here, too */
        if (!helper) admit(pid);
        if (must(waitpid(helper, &status, 0)) == helper && !status) send_bytes(ends[0], "m", 1, NULL, 0);
    }
    must(close(ends[0]));
    if (must(waitpid(pid, &status, 0)) != pid) die("waitpid");
    remove_groups();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
