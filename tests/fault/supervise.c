/*
 * supervise: runs a program and meddles with one of its system calls.
 *
 *   supervise ACTION N COMMAND [ARGUMENT...]
 *
 * Calls are counted in the program and in all processes that it starts, from 1: those that change files
 * (writes to a file other than standard input, output and error; fsync, rename, unlink, mkdir, truncation,
 * creation) or, for read-error and read-short, those that read one. At the N-th one
 * - count: nothing is done
 * - kill: all of its processes are killed before it takes place; at every N of a run, every state of the disk
 *   that a kill can leave is seen
 * - tear: the same, but a write has put half of its bytes there
 * - no-space, io-error: it fails with ENOSPC, EIO
 * - short: a write takes half of its bytes
 * - read-error: it fails with EIO
 * - read-short: it gives half of the bytes asked for
 * and it says "supervise: ACTION NAME-OF-THE-CALL". The last line on standard error is "supervise: M calls".
 * The exit code is the command's; 137 when it was killed; 77 when the kernel does not let one process watch
 * another's system calls (seccomp).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77, COPY = 1 << 20 };

typedef enum action { COUNT, KILL, TEAR, NO_SPACE, IO_ERROR, SHORT, READ_ERROR, READ_SHORT, ACTIONS } action;
static const char *const action_names[ACTIONS] = {"count",    "kill",  "tear",       "no-space",
                                                  "io-error", "short", "read-error", "read-short"};

typedef struct system_call {
    int number;
    const char *name;
} system_call;
#define CALL(name)                                                                                           \
    { SYS_##name, #name }
static const system_call changing[] = {
    CALL(write),     CALL(pwrite64),  CALL(writev),    CALL(pwritev), CALL(fsync),
    CALL(fdatasync), CALL(ftruncate), CALL(renameat),  CALL(mkdirat), CALL(renameat2),
    CALL(unlinkat),  CALL(openat),    CALL(fallocate),
#ifdef SYS_rename /* architectures that have the older calls too */
    CALL(rename),    CALL(mkdir),     CALL(unlink),    CALL(rmdir),   CALL(open),
#endif
};
static const system_call reading[] = {CALL(read), CALL(pread64), CALL(readv)};

static void die(const char *what) {
    fprintf(stderr, "supervise: %s: %s\n", what, strerror(errno));
    exit(SKIPPED);
}

/* --- the child ---------------------------------------------------------------------------------------------
 */

/* Calls of the list are told to whoever reads the descriptor that this returns. */
static int install_filter(const system_call *calls, size_t count) {
    struct sock_filter code[64];
    size_t n = 0;
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i].number,
                                                 (uint8_t)(count - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    struct sock_fprog program = {(unsigned short)n, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* A message of one byte with the descriptor, as SCM_RIGHTS has it. */
typedef union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
} control;

static void send_descriptor(int socket, int fd) {
    control c = {.bytes = {0}};
    char byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = c.bytes, .msg_controllen = sizeof c.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(socket, &message, 0) < 0) _exit(SKIPPED);
}

static int receive_descriptor(int socket) {
    control c;
    char byte;
    int fd = -1;
    struct iovec data = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = c.bytes, .msg_controllen = sizeof c.bytes};
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&message)) return -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static void run_child(int socket, const system_call *calls, size_t count, char **argv) {
    setpgid(0, 0);
    int fd = install_filter(calls, count);
    if (fd < 0) _exit(SKIPPED);
    send_descriptor(socket, fd);
    close(fd);
    execv(argv[0], argv);
    _exit(127);
}

/* --- the calls ---------------------------------------------------------------------------------------------
 */

static int is_write(int call) {
    return call == SYS_write || call == SYS_pwrite64 || call == SYS_writev || call == SYS_pwritev;
}

static int is_read(int call) {
    return call == SYS_read || call == SYS_pread64 || call == SYS_readv;
}

/* The watched process's descriptor as one of ours: the same open file. */
static int borrow_descriptor(pid_t thread, int fd) {
    char path[64], line[128];
    int process = (int)thread, borrowed = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)thread);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Tgid: %d", &process) == 1) break;
    if (status) fclose(status);
    int pidfd = (int)syscall(SYS_pidfd_open, process, 0);
    if (pidfd >= 0) {
        borrowed = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
        close(pidfd);
    }
    return borrowed;
}

/* 1 for a file on a disk: no pipe, and not what the kernel tells of itself. */
static int is_on_disk(int fd) {
    struct stat info;
    struct statfs system;
    return fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && fstatfs(fd, &system) == 0 &&
           system.f_type != PROC_SUPER_MAGIC && system.f_type != SYSFS_MAGIC;
}

/* What goes to a terminal, a log or a pipe, and opening a file that need not be made, change no file. */
static int counts(const struct seccomp_notif *call) {
    const struct seccomp_data *data = &call->data;
    if (is_write(data->nr) || is_read(data->nr)) {
        if ((int)data->args[0] <= STDERR_FILENO) return 0;
        int fd = borrow_descriptor((pid_t)call->pid, (int)data->args[0]), on_disk = is_on_disk(fd);
        if (fd >= 0) close(fd);
        return on_disk;
    }
    if (data->nr == SYS_openat) return (data->args[2] & O_CREAT) != 0;
#ifdef SYS_open
    if (data->nr == SYS_open) return (data->args[1] & O_CREAT) != 0;
#endif
    return 1;
}

/* Does the first half of a write or read; the number of its bytes, or -1 when that is none or cannot be done
 * for it. */
static int64_t do_half(const struct seccomp_notif *call) {
    static char buffer[COPY];
    const struct seccomp_data *d = &call->data;
    size_t half = (size_t)d->args[2] / 2;
    int positioned = d->nr == SYS_pwrite64 || d->nr == SYS_pread64, writes = is_write(d->nr);
    if (d->nr == SYS_writev || d->nr == SYS_pwritev || d->nr == SYS_readv || half == 0) return -1;
    if (half > sizeof buffer) half = sizeof buffer;
    struct iovec here = {buffer, half}, there = {(void *)(uintptr_t)d->args[1], half};
    int fd = borrow_descriptor((pid_t)call->pid, (int)d->args[0]);
    if (fd < 0) return -1;
    ssize_t done = -1;
    if (writes && process_vm_readv((pid_t)call->pid, &here, 1, &there, 1, 0) == (ssize_t)half)
        done = positioned ? pwrite(fd, buffer, half, (off_t)d->args[3]) : write(fd, buffer, half);
    if (!writes) {
        done = positioned ? pread(fd, buffer, half, (off_t)d->args[3]) : read(fd, buffer, half);
        here.iov_len = there.iov_len = done > 0 ? (size_t)done : 0;
        if (done > 0 && process_vm_writev((pid_t)call->pid, &here, 1, &there, 1, 0) != done) done = -1;
    }
    close(fd);
    return done;
}

/* Meddles with the chosen call; 1 when the processes are to be killed. */
static int meddle(action what, const struct seccomp_notif *call, struct seccomp_notif_resp *answer) {
    int64_t done;
    switch (what) {
    case TEAR:
        if (is_write(call->data.nr)) (void)do_half(call);
        return 1;
    case KILL:
        return 1;
    case NO_SPACE:
    case IO_ERROR:
    case READ_ERROR:
        answer->error = what == NO_SPACE ? -ENOSPC : -EIO;
        answer->flags = 0;
        return 0;
    case SHORT:
    case READ_SHORT:
        done = what == READ_SHORT || is_write(call->data.nr) ? do_half(call) : -1;
        if (done >= 0) {
            answer->val = done;
            answer->flags = 0;
        }
        return 0;
    default:
        return 0;
    }
}

static const char *name_of(int number) {
    for (size_t i = 0; i < sizeof changing / sizeof *changing; i++)
        if (changing[i].number == number) return changing[i].name;
    for (size_t i = 0; i < sizeof reading / sizeof *reading; i++)
        if (reading[i].number == number) return reading[i].name;
    return "";
}

/* Answers calls until no watched process is left. Returns how many counted. */
static int64_t watch(int fd, pid_t child, action what, int64_t n) {
    int64_t seen = 0;
    int killed = 0;
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, -1) < 0 && errno != EINTR) die("poll");
        if (!(ready.revents & POLLIN)) {
            if (ready.revents & POLLHUP) return seen;
            continue;
        }
        struct seccomp_notif call = {.id = 0};
        if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) continue; /* the caller was killed meanwhile */
        struct seccomp_notif_resp answer = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (!killed && counts(&call) && ++seen == n) {
            fprintf(stderr, "supervise: %s %s\n", action_names[what], name_of(call.data.nr));
            killed = meddle(what, &call, &answer);
            if (killed) kill(-child, SIGKILL);
        }
        if (!killed) ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

int main(int argc, char **argv) {
    int what = 0, sockets[2], result;
    while (argc > 3 && what < ACTIONS && strcmp(argv[1], action_names[what]) != 0)
        what++;
    if (argc <= 3 || what == ACTIONS) {
        fprintf(
            stderr,
            "usage: supervise count|kill|tear|no-space|io-error|short|read-error|read-short N COMMAND...\n");
        return 2;
    }
    int reads = what == READ_ERROR || what == READ_SHORT;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) die("socketpair");
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0)
        run_child(sockets[1], reads ? reading : changing,
                  reads ? sizeof reading / sizeof *reading : sizeof changing / sizeof *changing, argv + 3);
    close(sockets[1]);
    int fd = receive_descriptor(sockets[0]);
    int64_t seen = fd < 0 ? 0 : watch(fd, child, (action)what, strtoll(argv[2], NULL, 10));
    if (waitpid(child, &result, 0) != child) die("waitpid");
    fprintf(stderr, "supervise: %lld calls\n", (long long)seen);
    return WIFEXITED(result) ? WEXITSTATUS(result) : 128 + WTERMSIG(result);
}
